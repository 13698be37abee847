// The AWS Encryption SDK for JavaScript: `encrypt` or `decrypt` what comes on standard input, and write the result as it is.
//
// KMS_KEY_ID names the key; AWS_ENDPOINT_URL_KMS, AWS_REGION and the credentials are the SDK's own. The encryption context is given
// as JSON in CONTEXT; what is decrypted must have it.

import { buildClient, CommitmentPolicy, KmsKeyringNode } from "@aws-crypto/client-node";
import { buffer } from "node:stream/consumers";

const { encrypt, decrypt } = buildClient(CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT);
const keyring = new KmsKeyringNode({ generatorKeyId: process.env.KMS_KEY_ID });
const encryptionContext = JSON.parse(process.env.CONTEXT);

const given = await buffer(process.stdin);
if (process.argv[2] === "encrypt") {
  const { result } = await encrypt(keyring, given, { encryptionContext });
  process.stdout.write(result);
} else {
  const { plaintext, messageHeader } = await decrypt(keyring, given);
  for (const [key, value] of Object.entries(encryptionContext)) {
    if (messageHeader.encryptionContext[key] !== value) throw new Error(`the message has another ${key}`);
  }
  process.stdout.write(plaintext);
}
