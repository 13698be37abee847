"""Every KMS operation in one table: whether it changes state, and what of it may be recorded.

To admit a member to the record, name it here *and* in `audit.record.PARAMETER_NAMES`: two walls, so that neither a slip here nor
a new member in the service model lets key material into the log. Names are the API's (`KeyId`); the record writes them in
lowerCamelCase. Plaintext, messages, MACs and key material stand in no row; ciphertexts are recorded as fingerprints only.

Source: AWS KMS developer guide, "Logging AWS KMS API calls with CloudTrail"; the service model for the names.
"""

from __future__ import annotations

from proxy.domain import Operation


def _reads(name: str, *request: str, key_members: tuple[str, ...] = ("KeyId",), out: tuple[str, ...] = ()) -> Operation:
    return Operation(name, request=request, key_members=key_members, ciphertexts_out=out)


def _changes(
    name: str, *request: str, response: tuple[str, ...] = (), also: tuple[str, ...] = (), logs_key_arn: bool = True
) -> Operation:
    return Operation(name, mutates=True, request=request, response=response, also_recorded=also, logs_key_arn=logs_key_arn)


_BLOB = ("CiphertextBlob",)
_SYMMETRIC = "SYMMETRIC_DEFAULT"
_GENERATE = ("KeyId", "KeySpec", "NumberOfBytes", "EncryptionContext", "GrantTokens", "DryRun")
_PAIR = ("KeyId", "KeyPairSpec", "EncryptionContext", "GrantTokens", "DryRun")
_PAIR_BLOB = ("PrivateKeyCiphertextBlob",)
_ENCAPSULATE = ("KeyId", "EncapsulationAlgorithm", "GrantTokens", "DryRun")
_SHARED_SECRET = ("SharedSecretCiphertextBlob",)
_STORE = ("CustomKeyStoreId",)
_STORE_PLACE = (  # where a custom key store keeps its keys
    "CloudHsmClusterId",
    "XksProxyConnectivity",
    "XksProxyUriEndpoint",
    "XksProxyUriPath",
    "XksProxyVpcEndpointServiceName",
    "XksProxyVpcEndpointServiceOwner",
)

_ROWS = (
    # --- cryptographic operations: they use keys and change nothing
    Operation(
        "Encrypt",
        request=("KeyId", "EncryptionContext", "EncryptionAlgorithm", "GrantTokens", "DryRun"),
        ciphertexts_out=_BLOB,
        defaults=(("EncryptionAlgorithm", _SYMMETRIC),),
    ),
    Operation(
        "Decrypt",
        request=("KeyId", "EncryptionContext", "EncryptionAlgorithm", "GrantTokens", "DryRun"),
        ciphertexts_in=_BLOB,
        defaults=(("EncryptionAlgorithm", _SYMMETRIC),),
    ),
    Operation(
        "ReEncrypt",
        request=(
            "SourceKeyId",
            "DestinationKeyId",
            "SourceEncryptionContext",
            "DestinationEncryptionContext",
            "SourceEncryptionAlgorithm",
            "DestinationEncryptionAlgorithm",
            "GrantTokens",
            "DryRun",
        ),
        ciphertexts_in=_BLOB,
        ciphertexts_out=_BLOB,
        defaults=(("SourceEncryptionAlgorithm", _SYMMETRIC), ("DestinationEncryptionAlgorithm", _SYMMETRIC)),
        key_members=("SourceKeyId", "DestinationKeyId"),
    ),
    Operation("GenerateDataKey", request=_GENERATE, ciphertexts_out=_BLOB),
    Operation("GenerateDataKeyWithoutPlaintext", request=_GENERATE, ciphertexts_out=_BLOB),
    Operation("GenerateDataKeyPair", request=_PAIR, ciphertexts_out=_PAIR_BLOB),
    Operation("GenerateDataKeyPairWithoutPlaintext", request=_PAIR, ciphertexts_out=_PAIR_BLOB),
    _reads("GenerateRandom", key_members=()),
    _reads("GenerateMac", "KeyId", "MacAlgorithm", "GrantTokens", "DryRun"),
    _reads("VerifyMac", "KeyId", "MacAlgorithm", "GrantTokens", "DryRun"),
    _reads("Sign", "KeyId", "MessageType", "SigningAlgorithm", "GrantTokens", "DryRun"),
    _reads("Verify", "KeyId", "MessageType", "SigningAlgorithm", "GrantTokens", "DryRun"),
    _reads("DeriveSharedSecret", "KeyId", "KeyAgreementAlgorithm", "GrantTokens", "DryRun"),
    Operation("Encapsulate", request=_ENCAPSULATE, ciphertexts_out=_SHARED_SECRET),
    Operation("Decapsulate", request=_ENCAPSULATE, ciphertexts_in=_SHARED_SECRET),
    # --- reads of metadata
    _reads("DescribeKey", "KeyId", "GrantTokens"),
    _reads("GetPublicKey", "KeyId", "GrantTokens"),
    _reads("GetKeyPolicy", "KeyId", "PolicyName"),
    _reads("GetKeyRotationStatus", "KeyId"),
    _reads("GetKeyLastUsage", "KeyId"),
    _reads("GetParametersForImport", "KeyId", "WrappingAlgorithm", "WrappingKeySpec"),
    _reads("ListKeys", "Limit", "Marker", key_members=()),
    _reads("ListAliases", "KeyId", "Limit", "Marker"),
    _reads("ListGrants", "KeyId", "GrantId", "GranteePrincipal", "GranteeServicePrincipal", "Limit", "Marker"),
    _reads("ListRetirableGrants", "RetiringPrincipal", "RetiringServicePrincipal", "Limit", "Marker", key_members=()),
    _reads("ListKeyPolicies", "KeyId", "Limit", "Marker"),
    _reads("ListKeyRotations", "KeyId", "IncludeKeyMaterial", "Limit", "Marker"),
    _reads("ListResourceTags", "KeyId", "Limit", "Marker"),
    _reads("DescribeCustomKeyStores", *_STORE, "CustomKeyStoreName", "Limit", "Marker", key_members=()),
    # --- changes
    _changes(
        "CreateKey",
        "KeySpec",
        "KeyUsage",
        "Origin",
        "Description",
        "Tags",
        "MultiRegion",
        "Policy",
        "CustomerMasterKeySpec",
        "BypassPolicyLockoutSafetyCheck",
        "CustomKeyStoreId",
        "XksKeyId",
        response=("KeyMetadata",),
        logs_key_arn=False,
    ),
    _changes(
        "ReplicateKey",
        "KeyId",
        "ReplicaRegion",
        "Description",
        "Policy",
        "BypassPolicyLockoutSafetyCheck",
        "Tags",
        response=("ReplicaKeyMetadata",),
    ),
    _changes("UpdatePrimaryRegion", "KeyId", "PrimaryRegion"),
    _changes("UpdateKeyDescription", "KeyId", "Description"),
    _changes("EnableKey", "KeyId"),
    _changes("DisableKey", "KeyId"),
    _changes("EnableKeyRotation", "KeyId", "RotationPeriodInDays"),
    _changes("DisableKeyRotation", "KeyId"),
    _changes("RotateKeyOnDemand", "KeyId"),
    _changes(
        "ScheduleKeyDeletion",
        "KeyId",
        "PendingWindowInDays",
        response=("KeyState", "DeletionDate", "PendingWindowInDays"),
    ),
    _changes("CancelKeyDeletion", "KeyId"),
    _changes("PutKeyPolicy", "KeyId", "PolicyName", "Policy", "BypassPolicyLockoutSafetyCheck"),
    _changes("CreateAlias", "AliasName", "TargetKeyId"),
    _changes("UpdateAlias", "AliasName", "TargetKeyId"),
    _changes("DeleteAlias", "AliasName"),
    _changes("TagResource", "KeyId", "Tags"),
    _changes("UntagResource", "KeyId", "TagKeys"),
    _changes(
        "CreateGrant",
        "KeyId",
        "Constraints",
        "Operations",
        "GranteePrincipal",
        "GranteeServicePrincipal",
        "RetiringPrincipal",
        "RetiringServicePrincipal",
        "Name",
        "GrantTokens",
        "DryRun",
        response=("GrantId",),
    ),
    # CloudTrail tells the grant elsewhere; an intent must name it. Of a grant that was named by its token, the outcome tells it.
    _changes("RetireGrant", "KeyId", "GrantId", "DryRun", also=("GrantId",)),
    _changes("RevokeGrant", "KeyId", "GrantId", "DryRun"),
    _changes(
        "ImportKeyMaterial",
        "KeyId",
        "ValidTo",
        "ExpirationModel",
        "ImportType",
        "KeyMaterialDescription",
        "KeyMaterialId",
    ),
    _changes("DeleteImportedKeyMaterial", "KeyId", "KeyMaterialId"),
    _changes("CreateCustomKeyStore", "CustomKeyStoreName", "CustomKeyStoreType", *_STORE_PLACE, logs_key_arn=False),
    _changes("UpdateCustomKeyStore", *_STORE, "NewCustomKeyStoreName", *_STORE_PLACE, logs_key_arn=False),
    _changes("DeleteCustomKeyStore", *_STORE, logs_key_arn=False),
    _changes("ConnectCustomKeyStore", *_STORE, logs_key_arn=False),
    _changes("DisconnectCustomKeyStore", *_STORE, logs_key_arn=False),
)

OPERATIONS: dict[str, Operation] = {row.name: row for row in _ROWS}
