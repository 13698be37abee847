"""Where a call is answered: by keys kept here (`local`), later by AWS KMS upstream."""
