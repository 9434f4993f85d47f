"""The journal: all SQL, all state, and the audit log written in the transaction that moves the state."""
