"""Claims about circuits as data, and their check on shipped weights or on models trained from scratch."""

from mechinterp.claims.assertion import ClaimError, assert_claim
from mechinterp.claims.schema import VERDICTS, Claim, ClaimsFile, read_claims
from mechinterp.claims.shipped import LoadedCircuit, circuit_names, load_circuit, ship
from mechinterp.claims.subjects import Subject
from mechinterp.claims.verdict import decide
from mechinterp.claims.verify import ClaimResult, check_claim, verify

__all__ = [
    "VERDICTS",
    "Claim",
    "ClaimError",
    "ClaimResult",
    "ClaimsFile",
    "LoadedCircuit",
    "Subject",
    "assert_claim",
    "check_claim",
    "circuit_names",
    "decide",
    "load_circuit",
    "read_claims",
    "ship",
    "verify",
]
