"""A DICOM node that reads X-rays for bone fractures and answers in the PACS."""

__version__ = "0.1.0"
