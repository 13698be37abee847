"""What happened: the proxy that KMS calls go through. `pipeline` is the walk of a call; `audit` keeps what can be proved."""
