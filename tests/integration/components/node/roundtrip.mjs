// GenerateDataKey, Decrypt, Encrypt and DescribeKey with Node's AWS SDK, as its environment says; tells as JSON what came of it.
//
// KMS_KEY_ID names the key; AWS_ENDPOINT_URL_KMS, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and NODE_EXTRA_CA_CERTS
// are the SDK's and Node's own. It tries once, prints no plaintext and no ciphertext, and exits with 1 on an error.

import { DecryptCommand, DescribeKeyCommand, EncryptCommand, GenerateDataKeyCommand, KMSClient } from "@aws-sdk/client-kms";

const KeyId = process.env.KMS_KEY_ID;
const EncryptionContext = { tenant: "acme", object: "1" };
const client = new KMSClient({ maxAttempts: 1 });

const same = (one, other) => Buffer.compare(Buffer.from(one), Buffer.from(other)) === 0;
const requestIds = {};

async function call(Command, input) {
  const answer = await client.send(new Command(input));
  (requestIds[Command.name.replace(/Command$/, "")] ??= []).push(answer.$metadata.requestId);
  return answer;
}

try {
  const made = await call(GenerateDataKeyCommand, { KeyId, KeySpec: "AES_256", EncryptionContext });
  const opened = await call(DecryptCommand, { CiphertextBlob: made.CiphertextBlob, EncryptionContext });
  const wrapped = await call(EncryptCommand, { KeyId, Plaintext: made.Plaintext, EncryptionContext });
  const unwrapped = await call(DecryptCommand, { CiphertextBlob: wrapped.CiphertextBlob, EncryptionContext });
  const described = await call(DescribeKeyCommand, { KeyId });
  console.log(
    JSON.stringify({
      keyIds: [made.KeyId, opened.KeyId, wrapped.KeyId, unwrapped.KeyId, described.KeyMetadata.Arn],
      plaintextBytes: made.Plaintext.length,
      ciphertextBytes: [made.CiphertextBlob.length, wrapped.CiphertextBlob.length],
      plaintextsAgree: same(made.Plaintext, opened.Plaintext) && same(made.Plaintext, unwrapped.Plaintext),
      requestIds,
    }),
  );
} catch (error) {
  console.log(JSON.stringify({ error: error.name, message: error.message, requestId: error.$metadata?.requestId }));
  process.exitCode = 1;
} finally {
  client.destroy();
}
