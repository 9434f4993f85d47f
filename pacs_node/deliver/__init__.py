"""Objects out: results to their destinations, with what each destination answered."""
