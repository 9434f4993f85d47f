"""The pages that people look at; they read the journal and never work on images themselves."""
