"""SHA-256 and BLAKE2b by the interpreter's own modules.

The module `hashlib` loads OpenSSL, which takes 3 MB of memory and some ms of a start.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hashlib import blake2b, sha256
else:
    try:
        from _blake2 import blake2b

        try:
            from _sha2 import sha256  # Python 3.12
        except ImportError:
            from _sha256 import sha256
    except ImportError:  # an interpreter that was built without them
        from hashlib import blake2b, sha256

__all__ = ["blake2b", "sha256"]
