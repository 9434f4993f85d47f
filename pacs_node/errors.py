"""The errors of pacs-node, one tree.

    PacsNodeError                 base: shown to the user without a traceback
    ├── ConfigError               a setting is unknown or invalid                   (exit code 2)
    ├── ModelError                a model package is incomplete, altered or unusable (exit code 2)
    ├── InputError                an image cannot be used; the reason goes into the report
    │   └── DecodeError           its pixel data cannot be decoded
    ├── AdmissionError            an object cannot be stored; carries the C-STORE status
    ├── JournalError              the database cannot be opened or is of another version
    ├── CheckError                a result broke one of the node's own rules and must not be sent
    └── DeliveryError             a destination did not accept an object

No message holds patient data: UIDs, database keys, attribute keywords and file paths only.
"""


class PacsNodeError(Exception):
    """Base of all errors that pacs-node raises deliberately."""


class ConfigError(PacsNodeError):
    """A setting is unknown or invalid; the message names the key and the remedy."""


class ModelError(PacsNodeError):
    """A model package is incomplete, altered, or does not match its weights."""


class InputError(PacsNodeError):
    """An image cannot be analyzed; the message is the reason in the report and the audit log."""


class DecodeError(InputError):
    """The pixel data cannot be decoded."""


class AdmissionError(PacsNodeError):
    """An object cannot be stored. `status` is the C-STORE status to answer (PS3.4 B.2.3)."""

    def __init__(self, status: int, comment: str) -> None:
        super().__init__(comment)
        self.status = status


class JournalError(PacsNodeError):
    """The journal's database cannot be opened, or its schema belongs to another version."""


class CheckError(PacsNodeError):
    """A result broke one of the node's own rules; it is quarantined, never sent."""


class DeliveryError(PacsNodeError):
    """A destination could not be reached or refused the association."""
