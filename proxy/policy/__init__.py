"""Guardrails: IAM policy documents, evaluated at the proxy before a call, in the manner of a service control policy. Pure.

- An explicit Deny wins, whatever the order. Documents that only deny stand as if beside FullAWSAccess; as soon as one statement
  of any document allows something, what none allows is denied.
- Guardrails grant nothing: AWS (or the embedded KMS) still decides on what they let pass.
- **In doubt, against the caller.** The proxy sees a request before the call, and some of what IAM would know it cannot know: the
  key behind an alias, the key of a ciphertext that is sent without KeyId, the name of a caller whom only AWS can verify. Where
  a statement may or may not apply, a Deny does, and an Allow does not. What the proxy can *never* know (tags and aliases of a
  key, tags of a principal) is an error of the document, which is then not loaded.
- A condition key that no request has, or an operator that cannot compare it, is an error too: a guardrail that does
  nothing is worse than none.

The same documents, with the principals of key policies, decide in the embedded KMS (`proxy.authorization`). There the key is at
hand and the caller verified, so that next to nothing is in doubt, and a condition key that no request has is absent, as in IAM.

patterns: texts with wildcards and variables · operators · keys: where each condition key is found · access: the actions and
resources of a call · document: JSON to statements · lint: what is wrong with a guardrail · evaluate: a guardrail's decision ·
principals: whom a key policy is about · trust: who may assume a role · at_hand: condition keys of a key that is at hand ·
decision: what key policy and identity policies say together.

Source: IAM user guide, "IAM JSON policy elements" and "Policy evaluation logic"; AWS KMS developer guide, "Condition keys".
"""
