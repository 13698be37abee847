"""Real AWS KMS: how bytes get there and back (`transport`, `pool`, `egress`, `resolver`), and what is made of them."""
