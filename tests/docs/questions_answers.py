"""What is known to be the answer to each question of docs/questions.md, asked of the log of `questions_log`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tests.docs.questions_log import BLOBS, fingerprint


@dataclass(frozen=True, slots=True)
class Says:
    """Regular expressions: what is in the answer, and what was planted that could be taken for it, and is not in it.

    `where` is the number of a command, from 0; the title of a report's table; or the id of a rule of `detect`.
    """

    where: int | str
    found: tuple[str, ...]
    absent: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Expected:
    """Of a question: what its commands say, and with which codes they, with their pipes, exit."""

    says: tuple[Says, ...]
    exits: tuple[int, ...] = (0,)


def says(where: int | str, *found: str, absent: tuple[str, ...]) -> Says:
    return Says(where, found, absent)


_P = {name: fingerprint(name) for name in BLOBS}
_ONE, _TWO, _THREE = (_P[name][:16] for name in ("first", "second", "third"))  # as a story abbreviates them

#: Each question, and what is known to be the answer.
EXPECTED: Mapping[str, Expected] = {
    "Who unwrapped this file, and when?": Expected(
        (says(0, r"2025-10-05 09:30:00Z +unwrapped +Decrypt by assumed-role/reader/alice", absent=("reader/bob", "billing")),)
    ),
    "Who unwrapped this object in S3, and when?": Expected(
        (says(0, r"2025-10-07 11:00:00Z +unwrapped +Decrypt by assumed-role/reader/bob", absent=("alice", "user/eve")),)
    ),
    "Who unwrapped this row, and when?": Expected(
        (says(0, r"2025-10-08 12:00:00Z +unwrapped +Decrypt by user/billing", absent=("reader",)),)
    ),
    "Who was given this data key when it was made?": Expected(
        (says(0, r"2025-09-20 10:00:00\S* +GenerateDataKey +user/ingest", absent=("Decrypt", "neighbour", "alice")),)
    ),
    "Which blobs were never decrypted?": Expected(
        (
            says(
                0,
                rf"2025-10-09 .*user/ingest.*,{_P['idle']}",
                absent=tuple(_P[name] for name in ("contract", "first", "second", "third")),
            ),
            says(1, r"idle\.bin.*\n.*never unwrapped", absent=(r"[ab]\.bin.*\n.*never unwrapped",)),
        ),
        exits=(0, 1),
    ),
    "What was this blob re-encrypted from?": Expected(
        (
            says(
                0,
                rf"made +GenerateDataKey by user/payroll.*\n.*\n.*{_ONE}",
                rf"ReEncrypt by user/mover.*\n.*\n.*tenant=acme\n.*in +{_ONE}.* \(re-encrypted into it\)\n.*{_TWO}",
                rf"in +{_TWO}.*\n.*out {_THREE}.* \(asked about\)",
                absent=("stranger", _P["other"][:16]),
            ),
        )
    ),
    "Which blobs were presented by two principals?": Expected(
        (says(0, rf"{_P['contract']},.*:role/reader.*user/eve", absent=(_P["shared"], _P["fresh"])),)
    ),
    "Which blobs were presented under a wrong context?": Expected(
        (
            says(
                0, rf"{_P['contract']},2025-10-06 22:00:00,.*user/eve,.*globex", "eve,.*initech", absent=(_P["daily"], "clumsy")
            ),
            says("KT010", _P["contract"], "2 wrong contexts", absent=(_P["daily"],)),
        ),
        exits=(0, 1),
    ),
    "What shares one cached data key?": Expected(
        (
            says(0, r"/a\.bin", r"/b\.bin", absent=(r"idle\.bin", r"new\.bin")),
            says(1, "GenerateDataKey,.*user/ingest", "Decrypt,.*assumed-role/reader/alice", absent=("bob", "user/eve")),
        ),
        exits=(0, 0),
    ),
    "What is there under tenant=acme?": Expected(
        (
            says(
                0,
                'Decrypt,.*reader/alice.*""document"":""7""',
                "GenerateDataKey,.*user/ingest",
                "ReEncrypt,.*user/mover.*destinationEncryptionContext",
                absent=("globex", "neighbour", "initech"),
            ),
            says(1, r"/a\.bin", r"/idle\.bin", absent=(r"other\.bin", r"wages\.bin")),
        ),
        exits=(0, 0),
    ),
    "Which keys did this role touch in a window?": Expected(
        (says("Keys that each principal touched", "key/aaaaaaaa", "key/cccccccc", absent=("eeeeeeee", "bbbbbbbb", "writer")),)
    ),
    "Which contexts did this role touch in a window?": Expected(
        (
            says("Context pairs", r"tenant=acme \|", r"document=8 \|", absent=("oldco", "globex", r"document=10 ")),
            says("Context names", r"reader \| tenant \| 1 ", absent=("writer",)),
        )
    ),
    "Which principal used a key for the first time ever?": Expected(
        (says(0, r"cccccccc\S*,111122223333:role/reader,2025-10-15", absent=(r"aaaaaaaa\S*:role/reader", "user/later")),)
    ),
    "From which address was a key used for the first time ever?": Expected(
        (
            says(
                0, r"cccccccc[^,]*,198\.51\.100\.9,2025-10-15", r"aaaaaaaa[^,]*,203\.0\.113\.66,", absent=(r"aaaaaaaa[^,]*,10\.",)
            ),
        )
    ),
    "With which agent was a key used for the first time ever?": Expected(
        (says(0, r"cccccccc[^,]*,aws-cli/2\.30,2025-10-15", absent=(r"(aaaaaaaa|cccccccc)[^,]*,Boto3",)),)
    ),
    "Who really called behind this role?": Expected(
        (
            says(
                0,
                r"reader/alice,alice,ASIAALICE,10\.0\.0\.7,Boto3",
                r"reader/bob,bob,ASIABOB,198\.51\.100\.9,aws-cli",
                absent=("deploy", "nightly"),
            ),
        )
    ),
    "What is the blast radius of this access key?": Expected(
        (
            says("Keys that were reached", "key/aaaaaaaa", "key/bbbbbbbb", absent=("cccccccc",)),
            says("Data keys", rf"{_P['contract']} \| 1 ", rf"{_P['old']} \| 0 ", absent=(_P["idle"], _P["shared"])),
            says("Encryption contexts that were reached", "tenant=acme", "document=7 ", absent=("document=10",)),
            says("Others who unwrapped the same data keys", "assumed-role/reader", absent=("billing", "mover")),
        )
    ),
    "Who used a key through a grant?": Expected(
        (
            says(0, r"2025-10-20 10:05:00,.*exporter/nightly,Decrypt,.*\bgrant grant-1\b", absent=("10:01:00", "CreateGrant")),
            says(1, r"2025-10-20 10:01:00,.*exporter/nightly,Decrypt,.*token-1", absent=("reader", "deploy", "10:05")),
        ),
        exits=(0, 0),
    ),
    "Who created that grant?": Expected(
        (
            says(
                0,
                r"10:05:00,.*exporter/nightly,Decrypt,grant-1,.*user/admin,2025-10-20 10:00",
                absent=("grant-[23]", "intern", "deputy", "10:01"),
            ),
        )
    ),
    "When was this key last used, before it is deleted?": Expected(
        (says("Keys", r"bbbbbbbb\S* \|.*\| 2025-11-20 14:00:00Z \| 2025-11-20 14:00:00Z", absent=("2025-12", "aaaaaaaa")),)
    ),
    "Which workloads used it, before it is deleted?": Expected(
        (
            says("Workloads", "user/wages .*Decrypt.*2025-11-20 14:00:00Z", "role/writer .*Encrypt", absent=("billing", "alice")),
            says(1, r"wages\.bin +lost if the key is deleted", absent=(r"[ab]\.bin", r"new\.bin")),
        ),
        exits=(0, 1),
    ),
    "How did a key's policy change, and who changed it?": Expected(
        (
            says(
                "Key policies that were put",
                r"2025-11-05 10:00:00Z .*user/admin.*-\s+\"Action\": \"kms:Decrypt\",\+\s+\"Action\": \"kms:\*\"",
                absent=("archive-only", "cccccccc"),
            ),
        )
    ),
    "What is still under key material from before a rotation?": Expected(
        (
            says("Data under older key material", r"aaaaaaaa\S* \| M1 \| M2 ", absent=("cccccccc", "bbbbbbbb")),
            says(1, r"a\.bin +under old key material", absent=(r"new\.bin +under old", r"wages\.bin .*under old")),
        ),
        exits=(0, 1),
    ),
    "Was a key used after it was disabled?": Expected(
        (
            says(
                "Use after a key was put out of use",
                r"bbbbbbbb\S* \| DisableKey \| 2025-12-02 .*user/admin .*user/bonus \| Decrypt \| 0 \| 1 ",
                absent=("cccccccc", "backup", "wages"),
            ),
        )
    ),
    "Which keys are used from other accounts?": Expected(
        (says("Use from other accounts", r"aaaaaaaa\S* \| 999988887777 \| .*user/partner ", absent=("ingest", "reader")),)
    ),
    "Were there bursts of denied calls?": Expected((says("KT001", "user/eve", "25 calls", absent=("clumsy",)),), exits=(1,)),
    "Did somebody decrypt much more than usual?": Expected(
        (says("KT014", "assumed-role/reader", "120 Decrypt calls", absent=("neighbour", "billing")),), exits=(1,)
    ),
    "Who makes data keys that nobody ever decrypts?": Expected(
        (
            says(0, r"user/locker,.*dddddddd\S*,101,0,", absent=("ingest", "neighbour")),
            says("KT012", "user/locker", "101 wrapping calls", absent=("ingest",)),
        ),
        exits=(0, 1),
    ),
    "Which calls lacked a name in their encryption context?": Expected(
        (says("KT040", r"user/sloppy.*tenant.* is missing", absent=("typist.*is missing", "reader", "user/eve")),), exits=(0, 1)
    ),
    "Which calls had a malformed value in their encryption context?": Expected(
        (says("KT040", r"user/typist.*document.* has a value of another form", absent=("sloppy.*another form", "reader")),),
        exits=(0, 1),
    ),
    "Who are the users of each key, to be attested this quarter (SOC 2 CC6, PCI DSS 3.6 and 3.7)?": Expected(
        (
            says(
                "Key users (SOC 2 CC6, PCI DSS 3.6 and 3.7)",
                r"aaaaaaaa\S* \| .*assumed-role/reader ",
                r"bbbbbbbb\S* \| .*user/wages ",
                absent=("retired", "later"),
            ),
        )
    ),
    "Does every record have the required fields (PCI DSS 10.2.2)?": Expected(
        (
            says(
                "Required fields (PCI DSS 10.2.2)",
                r"user identification \|.*\| \d+ \| 1 \| 0 ",
                r"date and time \|.*\| \d+ \| 0 \| 0 ",
                absent=(r"date and time \|.*\| \d+ \| [1-9]",),
            ),
            says(
                "Records that lack a required field",
                r"Decrypt \| MissingAuthenticationTokenException \| .*user identification",
                absent=("GenerateDataKey", "AddCaller"),
            ),
        )
    ),
    "Is the log protected against change (PCI DSS 10.3)?": Expected(
        (says(0, r"✓ 7\. every saved checkpoint is of this tree", r"^Verified\.", absent=("✗", "in the data folder")),)
    ),
    "What is there for the daily review (PCI DSS 10.4)?": Expected(
        (says("Daily review (PCI DSS 10.4)", r"2025-11-12 \| 25 \| 25 ", r"2025-12-10 \| 1 \| 0 ", absent=("2025-09", "2026-")),)
    ),
    "Are twelve months there, with three at hand (PCI DSS 10.5.1)?": Expected(
        (
            says(
                "Retention (PCI DSS 10.5.1)",
                r"w0 \| \d+ \| 2024-12-01 .*\| yes \| yes",
                r"w1 \| 1 \| 2025-11-01 .*\| no \| no",
                absent=(r"w1 .*yes", "2026-01-15"),
            ),
            says("Twelve months", r"2025-02-01 \| 0 ", r"2025-11-01 \| [1-9]\d+ ", absent=("2024-", "2026-")),
        )
    ),
    "Can it be proved that nobody decrypted it in this interval?": Expected(
        (
            says(0, "No record with fingerprint", "2025-12-01T00:00:00.000000Z to before 2026-01-01", absent=("later", "alice")),
            says(1, "✓ 5", "✓ 6. it holds for all that was asked", "It holds", absent=("✗",)),
            says(2, "✓ 8. no record of the log at hand matches", "It holds", absent=("✗",)),
        ),
        exits=(0, 0, 0),
    ),
    "Can this one record be proved to an auditor?": Expected(
        (
            says(0, r"w\d-\d+\.json: the record, number \d+ of log w\d", absent=("WARNING",)),
            says(1, r"Proved: this record is number \d+ of the log keytrail/\w+/w\d", r"event event-7\.", absent=("event-8",)),
        ),
        exits=(0, 0),
    ),
    "Who searched the audit log?": Expected(
        (
            says(
                0,
                '"userName":"auditor"',
                '"command":"trace","question":{"artifact":"contract-7.bin"}',
                absent=('"operator"', "AddCaller"),
            ),
            says(1, r"2025-12-15 10:00:00 +auditor", absent=("operator", "root")),
        ),
        exits=(0, 0),
    ),
    "Which calls went past keytrail?": Expected(
        (says(0, "2 events added", absent=("3 events",)), says(1, "user/shadow", "1 call did not pass", absent=("billing",))),
        exits=(0, 1),
    ),
}
