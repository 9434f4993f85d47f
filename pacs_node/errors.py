"""The errors of pacs-node, one tree.

    PacsNodeError                 base: what a user is told without a traceback
    ├── ConfigError               a setting is unknown or wrong                     (exit code 2)
    ├── ModelError                a model package is incomplete, altered or unusable (exit code 2)
    ├── InputError                an image cannot be used; the reason goes into the report
    │   └── DecodeError           its pixel data cannot be decoded
    ├── AdmissionError            an object cannot be stored; carries the C-STORE status
    ├── JournalError              the database cannot be opened or is of another version
    ├── CheckError                an object of ours broke one of our own rules and must not leave
    └── DeliveryError             a destination did not take an object

No message holds patient data: UIDs, database keys, attribute keywords and file paths only.
"""


class PacsNodeError(Exception):
    """Base of all errors that pacs-node raises on purpose."""


class ConfigError(PacsNodeError):
    """A setting is unknown or has a bad value; the message names the key and what would be right."""


class ModelError(PacsNodeError):
    """A model package is incomplete, was altered, or does not fit its weights."""


class InputError(PacsNodeError):
    """An image cannot be analyzed; the message is the reason that the report and the audit log give."""


class DecodeError(InputError):
    """The pixel data cannot be decoded."""


class AdmissionError(PacsNodeError):
    """An object cannot be stored. `status` is the C-STORE status to answer (PS3.4 B.2.3)."""

    def __init__(self, status: int, comment: str) -> None:
        super().__init__(comment)
        self.status = status


class JournalError(PacsNodeError):
    """The journal's database cannot be opened, or its schema is not the one this version needs."""


class CheckError(PacsNodeError):
    """An object of ours broke one of our own rules; it is quarantined, never sent."""


class DeliveryError(PacsNodeError):
    """A destination could not be reached or refused the association."""
