"""What a URI names, spelling by spelling, and which the lists admit."""

from __future__ import annotations

import pytest

from worker.encode.uris import (
    HostRule,
    UriError,
    parse_endpoint,
    parse_file,
    parse_object,
    parse_web,
    scheme_of,
    shown,
)

# ---------------------------------------------------------------------- hosts


def admits(entry: str, uri: str) -> bool:
    try:
        return HostRule.parse(entry).admits(parse_web(uri))
    except UriError:
        return False


@pytest.mark.parametrize(
    ("entry", "uri"),
    [
        ("cdn.test", "http://cdn.test/a"),
        ("cdn.test", "https://cdn.test/a"),
        ("cdn.test", "HTTPS://CDN.Test/a"),
        ("CDN.test", "http://cdn.test/a"),
        ("cdn.test", "http://cdn.test./a"),
        ("cdn.test.", "http://cdn.test/a"),
        ("cdn.test", "http://cdn.test:80/a"),
        ("cdn.test", "http://cdn.test:/a"),
        ("cdn.test", "http://cdn.test:0080/a"),
        ("cdn.test:443", "https://cdn.test/a"),
        ("cdn.test:8443", "https://cdn.test:8443/a"),
        ("cdn.test", "http://cdn%2etest/a"),
        ("cdn.test", "http://%63dn.test/a"),
        ("cdn.test", "http://cdn.test?query"),
        ("cdn.test", "http://cdn.test#fragment"),
        ("cdn.test", "  http://cdn.test/a\n"),
        ("müller.test", "http://xn--mller-kva.test/a"),
        ("xn--mller-kva.test", "http://M\u00fcller.test/a"),
        ("xn--mller-kva.test", "http://m%C3%BCller.test/a"),
        ("cdn.test", "http://cdn\u3002test/a"),  # the full stop of CJK, which resolvers take for a dot
        ("*.cdn.test", "http://a.b.cdn.test/a"),
        ("[2001:db8::1]:8080", "http://[2001:DB8:0:0::1]:8080/a"),
        ("2001:db8::1", "http://[2001:db8::1]/a"),
        ("[2001:db8::1]", "https://[2001:0db8::0001]:443/a"),
    ],
)
def test_a_host_is_admitted_however_it_is_spelt(entry: str, uri: str) -> None:
    assert admits(entry, uri)


@pytest.mark.parametrize(
    ("entry", "uri"),
    [
        ("cdn.test", "http://cdn.test:443/a"),  # the default port of another scheme
        ("cdn.test", "https://cdn.test:80/a"),
        ("cdn.test:80", "https://cdn.test/a"),
        ("cdn.test:9000", "http://cdn.test:90001/a"),
        ("cdn.test:9000", "http://cdn.test:90001.evil/a"),
        ("cdn.test:9000", "http://cdn.test:9000.evil/a"),
        ("cdn.test:9000", "http://cdn.test:9000@evil.test/a"),
        ("cdn.test", "http://cdn.test@evil.test/a"),
        ("cdn.test", "http://evil.test@cdn.test/a"),
        ("cdn.test", "http://@cdn.test/a"),
        ("cdn.test", "http://evil.test/@cdn.test"),
        ("cdn.test", "http://evil.test#@cdn.test/"),
        ("cdn.test", "http://evil.test?@cdn.test/"),
        ("cdn.test", "http://evil.test\\@cdn.test/"),
        ("cdn.test", "http://cdn.test\\.evil.test/"),
        ("cdn.test", "http:\\\\cdn.test/"),
        ("cdn.test", "http://cdn.test.evil.test/a"),
        ("cdn.test", "http://evilcdn.test/a"),
        ("cdn.test", "http://cdn.test../a"),
        ("cdn.test", "http://cdn..test/a"),
        ("cdn.test", "http://.cdn.test/a"),
        ("cdn.test", "http://cdn.test%2f.evil.test/a"),
        ("cdn.test", "http://cdn.test%00.evil.test/a"),
        ("cdn.test", "http://cdn.test%40evil.test/a"),
        ("cdn.test", "http://cdn.test%3a80/a"),
        ("cdn.test", "http://cdn%252etest/a"),
        ("cdn.test", "http://cdn.te\tst/a"),
        ("cdn.test", "http://cdn.te\nst/a"),
        ("cdn.test", "http://cdn.test \t/a"),
        ("cdn.test", "http://cdn.test /a"),
        ("cdn.test", "http://cdn.test:+80/a"),
        ("cdn.test", "http://cdn.test:8\u0660/a"),  # a digit of another script
        ("cdn.test", "http://cdn.test:0/a"),
        ("cdn.test", "http://cdn.test:65616/a"),  # 80, counted modulo 65,536
        ("cdn.test", "http://cdn.test:80:80/a"),
        ("cdn.test", "http:cdn.test/a"),
        ("cdn.test", "http:/cdn.test/a"),
        ("cdn.test", "http:///cdn.test/a"),
        ("cdn.test", "http://[cdn.test]/a"),
        ("cdn.test", "http://\u2100.test@cdn.test/a"),
        ("127.0.0.1", "http://2130706433/a"),
        ("127.0.0.1", "http://0x7f.1/a"),
        ("127.0.0.1", "http://127.1/a"),
        ("127.0.0.1", "http://[::ffff:127.0.0.1]/a"),
        ("127.0.0.1", "http://[::1]/a"),
        ("::1", "http://[::1%25lo]/a"),
        ("::1", "http://[::1%lo]/a"),
        ("::1", "http://[::1].evil.test/a"),
        ("::1", "http://[::1]evil/a"),
        ("::1", "http://[::1/a"),
        ("::1", "http://::1/a"),
        ("*.cdn.test", "http://cdn.test/a"),
        ("*.cdn.test", "http://.cdn.test/a"),
        ("*.cdn.test", "http://evilcdn.test/a"),
        ("*.0.0.1", "http://127.0.0.1/a"),
    ],
)
def test_what_only_looks_like_a_host_on_the_list_is_not_admitted(entry: str, uri: str) -> None:
    assert not admits(entry, uri)


@pytest.mark.parametrize(
    "entry", ["", "*", "*.", "http://cdn.test", "cdn.test/a", "cdn.test:x", "a b", "u@cdn.test", "[::1", "a..b", "*.*"]
)
def test_an_entry_that_names_no_host_is_an_error(entry: str) -> None:
    with pytest.raises(UriError):
        HostRule.parse(entry)


@pytest.mark.parametrize(
    ("uri", "target"),
    [
        ("http://cdn.test", "/"),
        ("http://cdn.test?n=1", "/?n=1"),
        ("http://cdn.test/a.jpg?X-Amz-Signature=ab%2Fc%3D&x=1", "/a.jpg?X-Amz-Signature=ab%2Fc%3D&x=1"),
        ("http://cdn.test/with space.jpg", "/with%20space.jpg"),
        ("http://cdn.test/a?name=with space", "/a?name=with%20space"),
        ("http://cdn.test/größe.jpg?n=größe", "/gr%C3%B6%C3%9Fe.jpg?n=gr%C3%B6%C3%9Fe"),
        ("http://cdn.test/a%20b%2Bc.jpg", "/a%20b%2Bc.jpg"),
        ("http://cdn.test/100%.jpg?50%", "/100%25.jpg?50%25"),
        ("http://cdn.test/a+b;c=d,e", "/a+b;c=d,e"),
        ('http://cdn.test/"<>"?"<>"', "/%22%3C%3E%22?%22%3C%3E%22"),
        ("http://cdn.test/a?b?c/d", "/a?b?c/d"),
        ("http://cdn.test/a?ids[]=1", "/a?ids[]=1"),
        ("http://cdn.test//a//b", "//a//b"),
        ("http://cdn.test/a#b?c", "/a"),
        ("http://cdn.test/a\\b", "/a%5Cb"),
    ],
)
def test_what_is_asked_for_is_what_the_uri_says(uri: str, target: str) -> None:
    assert parse_web(uri).target == target


@pytest.mark.parametrize("uri", ["http://cdn.test/a\r\nX: y", "http://cdn.test/\x00", "http://cdn.test/\ud800"])
def test_what_would_break_a_request_is_refused(uri: str) -> None:
    with pytest.raises(UriError):
        parse_web(uri)


# ---------------------------------------------------------------------- buckets


@pytest.mark.parametrize(
    ("uri", "target"),
    [
        ("s3://bucket/plain.jpg", "/base/bucket/plain.jpg"),
        ("S3://bucket/plain.jpg", "/base/bucket/plain.jpg"),
        ("s3://bucket/with space.jpg", "/base/bucket/with%20space.jpg"),
        ("s3://bucket/a ", "/base/bucket/a%20"),
        ("s3://bucket/größe/日本.jpg", "/base/bucket/gr%C3%B6%C3%9Fe/%E6%97%A5%E6%9C%AC.jpg"),
        ("s3://bucket/a+b.jpg", "/base/bucket/a%2Bb.jpg"),
        ("s3://bucket/item#2.jpg", "/base/bucket/item%232.jpg"),
        ("s3://bucket/what?.jpg", "/base/bucket/what%3F.jpg"),
        ("s3://bucket/a?versionId=1#2", "/base/bucket/a%3FversionId%3D1%232"),
        ("s3://bucket/100%.jpg", "/base/bucket/100%25.jpg"),
        ("s3://bucket/50%25.jpg", "/base/bucket/50%2525.jpg"),
        ("s3://bucket/a%20b", "/base/bucket/a%2520b"),
        ("s3://bucket//double//slash.jpg", "/base/bucket//double//slash.jpg"),
        ("s3://bucket/a\nb", "/base/bucket/a%0Ab"),
        ("s3://bucket/a@b:c;d,e=f&g", "/base/bucket/a%40b%3Ac%3Bd%2Ce%3Df%26g"),
        ("s3://bucket/..a/b../.c", "/base/bucket/..a/b../.c"),
    ],
)
def test_a_key_is_any_text_and_is_encoded_once(uri: str, target: str) -> None:
    assert parse_object(uri).target("/base") == target


@pytest.mark.parametrize(
    "key",
    [
        "../private/key", "a/../../private/key", "./a", "a/.", "a/..", "%2e%2e/private/key", "%2E%2e/private/key",
        ".%2e/private/key", "%252e%252e/private/key", "a%2f..%2f..%2fprivate", "..\\private", "a\\..\\..\\private",
        "..;x=y/private", "..%5cprivate", "a/..%2fprivate", "%25252525252525252e%2e/private", ".. /private",
    ],
)  # fmt: skip
def test_a_key_with_dots_that_servers_resolve_is_refused(key: str) -> None:
    with pytest.raises(UriError, match=r"segment of dots|over and over"):
        parse_object(f"s3://public/{key}")


@pytest.mark.parametrize(
    "uri",
    [
        "s3://public", "s3://public/", "s3://public//", "s3:///key", "s3:public/key", "s3:/public/key",
        "s3://pub lic/key", "s3://user@public/key", "s3://public:80/key", "s3://public?/key", "s3://public#/key",
        "s3://public%2f..%2fprivate/key", "s3://../private/key", "s3://pub..lic/key", "s3://public\\private/key",
        "s3://public/\ud800",
    ],
)  # fmt: skip
def test_what_names_no_object_is_refused(uri: str) -> None:
    with pytest.raises(UriError):
        parse_object(uri)


def test_a_bucket_is_admitted_by_its_exact_name() -> None:
    rule = HostRule.parse("public")
    assert rule.admits_bucket("public")
    assert not any(rule.admits_bucket(name) for name in ("Public", "public.", "public2", "a.public", "publi"))
    assert HostRule.parse("*.shop").admits_bucket("a.shop")
    assert not HostRule.parse("*.shop").admits_bucket("shop")
    assert not HostRule.parse("public:80").admits_bucket("public")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://store.test:9000", "http://store.test:9000"),
        ("https://STORE.test:443/", "https://store.test"),
        ("https://store.test/base/", "https://store.test/base"),
    ],
)
def test_an_endpoint_is_read_as_any_address(url: str, said: str) -> None:
    assert str(parse_endpoint(url)) == said


@pytest.mark.parametrize(
    "url",
    [
        "store.test",
        "store.test:9000",
        "ftp://store.test",
        "http://",
        "http://a@store.test",
        "http://s/?x",
        "http://s/#x",
    ],
)
def test_an_endpoint_that_is_none_is_an_error(url: str) -> None:
    with pytest.raises(UriError):
        parse_endpoint(url)


# ---------------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///media/a%20disc.jpg", "/media/a disc.jpg"),
        ("file:///media/item#2.jpg", "/media/item#2.jpg"),
        ("file:///media/what?.jpg", "/media/what?.jpg"),
        ("file:///media/50%2525", "/media/50%25"),
        ("file://localhost/media/a", "/media/a"),
        ("FILE:/media/a", "/media/a"),
    ],
)
def test_a_file_is_named_by_its_whole_path(uri: str, path: str) -> None:
    assert parse_file(uri) == path


@pytest.mark.parametrize("uri", ["file:media/a", "file://host/media/a", "file://", "file:", "file:///\ud800"])
def test_what_names_no_file_here_is_refused(uri: str) -> None:
    with pytest.raises(UriError):
        parse_file(uri)


# ---------------------------------------------------------------------- what is told of them


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("https://cdn.test/a.jpg", "https://cdn.test/a.jpg"),
        ("https://cdn.test:8443/a.jpg?X-Amz-Signature=SECRET", "https://cdn.test:8443/a.jpg?…"),
        ("https://cdn.test/a.jpg#SECRET", "https://cdn.test/a.jpg?…"),
        ("https://cdn.test?token=SECRET", "https://cdn.test?…"),
        ("https://user:SECRET@cdn.test/a", "https://cdn.test/a"),
        ("https://user:SEC@RET@cdn.test/a", "https://cdn.test/a"),
        ("https://user:SEC/RET@cdn.test/a", "https://…"),
        ("https://user:1/SECRET@cdn.test/a", "https://…"),
        ("https://user:SEC?RET@cdn.test/a", "https://…"),
        ("https://SECRET@[::1/a", "https://[::1/a"),
        ("s3://bucket/key?X-Amz-Signature=SECRET", "s3://bucket/key?…"),
        ("file:///media/a.jpg", "file:///media/a.jpg"),
        ("data:text/plain,SECRET", "data:…"),
        ("SECRET", "…"),
        ("https://cdn.test/a\nb\x1b[0m", "https://cdn.test/a�b�[0m"),
        ("postgres://user:SECRET@db/x", "postgres://db/x"),
    ],
)
def test_no_secret_is_shown(uri: str, said: str) -> None:
    assert shown(uri) == said


def test_what_is_shown_is_short() -> None:
    assert len(shown("https://cdn.test/" + "a" * 4_000)) <= 201


@pytest.mark.parametrize(
    ("uri", "scheme"), [("HTTP://a", "http"), (" s3://b", "s3"), ("//a", ""), ("1a:b", ""), ("", "")]
)
def test_schemes_are_told_in_any_case(uri: str, scheme: str) -> None:
    assert scheme_of(uri) == scheme
