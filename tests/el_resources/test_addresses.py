"""Addresses as they may be shown."""

import traceback

import pytest

from el_resources.addresses import has_secrets, secrets_kept, without_query, without_secrets
from el_resources.sources.contracts import CorruptShardError
from el_resources.sources.mixture import parse_mixture
from el_resources.sources.opening import open_corpus


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("jsonl:https://me:hunter2@host/a.jsonl", "jsonl:https://host/a.jsonl"),
        ("https://token@host:8080/a?X-Amz-Signature=hunter2&b=c#part", "https://host:8080/a#part"),
        ("HTTPS://me:hunter2@host", "HTTPS://host"),
        ("https://host?sig=hunter2", "https://host"),
        ("http://me:hun/ter2@host/a", "http://host/a"),
        ("http://me:p@ss:hunter2@host/a", "http://host/a"),
        ("http://[::1]:80/a?hunter2", "http://[::1]:80/a"),
        ("sftp://me:hunter2@host/data/*.jsonl", "sftp://host/data/*.jsonl"),
        ("s3://bucket/a?versionId=hunter2", "s3://bucket/a"),
        ("zip://a.jsonl::https://me:hunter2@host/x.zip?sig=1", "zip://a.jsonl::https://host/x.zip"),
        (
            'jsonl:http://a:hunter2@h/x [weight=0.5] + "parquet:http://b:hunter2@h/y?z=hunter2" [weight=0.5]',
            'jsonl:http://h/x [weight=0.5] + "parquet:http://h/y" [weight=0.5]',
        ),
        ("403, url='https://host/a?sig=hunter2' (see https://docs)", "403, url='https://host/a' (see https://docs)"),
        ("abfss://container:hunter2@account.dfs.core.windows.net/a", "abfss://account.dfs.core.windows.net/a"),
        ("postgresql+psycopg2://dagster:hunter2@db:5432/dagster", "postgresql+psycopg2://db:5432/dagster"),
        ("http://me:hun ter2@host/a is no address", "http://host/a is no address"),
        ("jsonl:http://me:hun'ter2@host/a", "jsonl:http://host/a"),
        ('ftp://me:hun"ter"2@host/a', "ftp://host/a"),
        ("http://me:hunter2 again 3@host:80/a", "http://host:80/a"),
        ("//me:hunter2@host/a", "//host/a"),
        ("a source of //me:hunter2@host/a", "a source of //host/a"),
        ("https:/me:hunter2@host/a", "https:/host/a"),
        ("jsonl:https:/me:hunter2@host/a?sig=1", "jsonl:https:/host/a"),
        ("s3:me:hunter2@bucket/a", "s3:bucket/a"),
        ("https://host/a;sig=hunter2", "https://host/a"),
        ("https://host/a;type=a;X-Token=hunter2/b", "https://host/a;type=a"),
        ("https://host/a#token=hunter2", "https://host/a"),
        ("https://host/a?b=c#state=1&access_token=hunter2", "https://host/a"),
        ("abfss://box@account/a;sas_signature=hunter2", "abfss://box@account/a"),
        ("(see https://host/a?sig=hunter2)", "(see https://host/a)"),
        ("https://host/a?sig=hunter2, https://host/b?sig=hunter2.", "https://host/a, https://host/b."),
        ("read 'https://host/a?sig=hunter2'.", "read 'https://host/a'."),
        ("s3://box/a?versionId=hunter2) is gone", "s3://box/a) is gone"),
        ("[https://host/a;sig=hunter2]: no", "[https://host/a]: no"),
        ("jsonl:https://host/a.jsonl?sig=hunter2.", "jsonl:https://host/a.jsonl"),
    ],
)
def test_credentials_are_left_out(text: str, shown: str) -> None:
    assert without_secrets(text) == shown
    assert has_secrets(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "python-docs:",
        "jsonl:/data/me:you@here/a?b=c.jsonl",
        "hf:owner/name/config@revision#split",
        "s3://bucket/part-?/*.parquet",
        "s3://bucket/part-????.parquet",
        "abfss://container@account.dfs.core.windows.net/a",
        "github://owner:name@main/data",
        "hf://datasets/owner/name@main/a.parquet",
        "http://host:8080/a/b@c",
        "ask me@host, or see http://host",
        "mail you@host.org, not http://host:8080 or me@host",
        "see http://host: it says ask me@host",
        "http://[::1]:80 and me@host",
        "C:\\Users\\me@home\\a b.jsonl",
        "file:///C:/Users/me@home/a b.jsonl",
        "it ran from 12:30:01 to 12:31, a//b, 1//2 and // a comment: me@host",
        "/data//me:you@here/a.jsonl",
        "jsonl:/data/a;b=c#d=e.jsonl",
        "https://host/a;b=c/d.jsonl#part",
        "{'a': 'http://host:80', 'b': 'me@host'}",
        "http://host:80/a.jsonl (ask me@host)",
        "see https://host/a.",
    ],
)
def test_what_holds_none_stays_as_it_is(text: str) -> None:
    assert without_secrets(text) == text


def test_a_query_is_one_on_the_web_only() -> None:
    assert without_query("https://me:x@host/a?b/c?d") == "https://me:x@host/a"
    assert without_query("s3://bucket/a?.jsonl") == "s3://bucket/a?.jsonl"


SECRET = "http://me:hunter2@127.0.0.1:1/a.jsonl?sig=hunter3"


def shown(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


@pytest.mark.parametrize(
    "error",
    [
        ValueError(f"{SECRET} is wrong"),
        FileNotFoundError(2, "no such file", SECRET),
        CorruptShardError("a", SECRET, f"no good: {SECRET}"),
        KeyError(SECRET),
        UnicodeDecodeError("utf-8", b"x", 0, 1, SECRET),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_error_and_no_cause_of_it_shows_credentials(error: Exception) -> None:
    with pytest.raises(Exception, match=r"http://127\.0\.0\.1:1/a\.jsonl") as raised, secrets_kept():
        raise error
    assert "hunter" not in shown(raised.value)
    with pytest.raises(RuntimeError, match="in our words") as raised, secrets_kept():
        try:
            raise error
        except type(error) as cause:
            raise RuntimeError("in our words") from cause
    assert "hunter" not in shown(raised.value)


def test_other_errors_keep_their_causes() -> None:
    with pytest.raises(ValueError, match="b") as raised, secrets_kept():
        raise ValueError("b") from KeyError("a")
    assert isinstance(raised.value.__cause__, KeyError)


@pytest.mark.parametrize(
    "corpus",
    [
        SECRET,
        f"jsonl:{SECRET} [weight=2]",
        f"jsonl:{SECRET} + jsonl:{SECRET}",
        f'"jsonl:{SECRET} [weight=1]',
        f"jsonl:{SECRET}",
        f"jsonl:no-such-scheme{SECRET.removeprefix('http')}",
        f"jsonl:{SECRET} [tokens=5]",
    ],
)
def test_a_source_that_cannot_be_opened_is_named_without_credentials(corpus: str) -> None:
    with pytest.raises(Exception, match=r"127\.0\.0\.1:1") as raised:
        open_corpus(corpus).shards()
    assert "hunter" not in shown(raised.value)


def test_a_source_of_a_mixture_is_named_after_its_place_and_not_after_a_password() -> None:
    names = [spec.name for spec in parse_mixture("jsonl:http://me:hunter2@h:80/a?s=1 + jsonl:http://me:hunter2@h/b")]
    assert names == ["a", "b"]
