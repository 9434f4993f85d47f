"""Findings become DICOM objects: one Structured Report per study, one Secondary Capture per image, checked.

`sr.build` and `sc.build` make them, `check.verify` says whether they may leave, `text.as_text` reads a report
aloud.
"""
