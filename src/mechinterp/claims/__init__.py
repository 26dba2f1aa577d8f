"""Claims about circuits as data, and their check on shipped weights or on models trained anew."""

from mechinterp.claims.schema import VERDICTS, Claim, ClaimsFile, read_claims
from mechinterp.claims.shipped import LoadedCircuit, circuit_names, load_circuit, ship
from mechinterp.claims.subjects import Subject
from mechinterp.claims.verdict import Number, decide
from mechinterp.claims.verify import ClaimResult, verify

__all__ = [
    "VERDICTS",
    "Claim",
    "ClaimResult",
    "ClaimsFile",
    "LoadedCircuit",
    "Number",
    "Subject",
    "circuit_names",
    "decide",
    "load_circuit",
    "read_claims",
    "ship",
    "verify",
]
