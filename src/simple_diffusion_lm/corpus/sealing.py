"""Records of JSON that notice when they were changed."""

import hashlib
import json
from typing import Any


def digest_of(record: Any) -> str:
    """SHA-256 of a value as JSON has it."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """The record with the digest of all the rest of it under "seal"."""
    rest = {key: value for key, value in record.items() if key != "seal"}
    return {**rest, "seal": digest_of(rest)}
