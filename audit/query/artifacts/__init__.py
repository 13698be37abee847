"""Data keys in artefacts: where the CiphertextBlob of a data key lies in each format that keeps one beside its data.

One module for each family of formats; each has readers of the form `artifact.Reader`, which `recognise.FORMATS` lists in the
order of asking. Pure: a reader gets an `artifact.Artifact` and reads pieces of it. Strict and bounded: what a length field
says is compared with what is there before anything is read, and no reader takes more than `artifact.MAX_PIECE_BYTES` at once.
"""
