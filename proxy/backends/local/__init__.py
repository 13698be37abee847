"""The embedded KMS: keys in the sealed store, cryptography in this process, behaviour and messages as of AWS KMS."""
