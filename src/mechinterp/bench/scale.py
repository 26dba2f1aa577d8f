"""Estimates of all edges of a model as large as GPT-2 small: time and memory, against EAP-IG's public way.

Memory does not go back to what it was before a call, so each call has a process of its own. Processes of the two ways
run in turn, and the clock is their processor time.
"""

from __future__ import annotations


