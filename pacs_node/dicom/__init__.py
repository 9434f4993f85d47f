"""DICOM itself: reading, anatomy, headers, wrapping, TLS, and what touches pynetdicom's insides."""
