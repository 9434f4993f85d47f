"""Findings become DICOM objects: one Structured Report per study, one Secondary Capture per image, checked.

`facts.ReportFacts` says what they state; `sr.build` and `sc.build` make them, `check.verify` lets them leave.
"""
