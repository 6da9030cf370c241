"""The claims under test, in rooms by subject, and the ledger that says what our results make of each."""
