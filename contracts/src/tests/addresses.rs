//! The address of a file: what is refused, and that a token goes to its own grant's place only.

use crate::{BlobUri, Reason};

#[test]
fn one_file_has_one_normal_address() {
    let same = [
        ("https://Account.BLOB.core.windows.net/c/b", "https://account.blob.core.windows.net/c/b"),
        ("HTTPS://account.blob.core.windows.net:443/c/b", "https://account.blob.core.windows.net/c/b"),
        ("https://account.blob.core.windows.net:/c/b", "https://account.blob.core.windows.net/c/b"),
        ("https://a.example:8443/c/b", "https://a.example:8443/c/b"),
        ("https://a.example:080/c/b", "https://a.example:80/c/b"),
        ("https://a.example/c/b?sv=1&sig=SECRET", "https://a.example/c/b"),
        ("https://a.example/c/b?sv=1/../..?x", "https://a.example/c/b"),
        ("https://a.example/c/%62", "https://a.example/c/b"),
        ("https://a.example/c/å b", "https://a.example/c/%C3%A5%20b"),
        ("https://a.example/c/%c3%a5%20b", "https://a.example/c/%C3%A5%20b"),
        ("https://a.example/c/a+b=c;d,e", "https://a.example/c/a%2Bb%3Dc%3Bd%2Ce"),
        ("https://a.example/c/a%2bb%3dc%3bd%2ce", "https://a.example/c/a%2Bb%3Dc%3Bd%2Ce"),
        ("https://a.example/c/100%25", "https://a.example/c/100%25"),
        ("https://a.example/c/.hidden/...", "https://a.example/c/.hidden/..."),
        ("https://bücher.example/c/b", "https://xn--bcher-kva.example/c/b"),
        ("http://127.0.0.1:10000/account/c/b", "http://127.0.0.1:10000/account/c/b"),
        ("http://127.9.9.9:80/c/b", "http://127.9.9.9/c/b"),
        ("http://LocalHost/c/b", "http://localhost/c/b"),
        ("http://[::1]:10000/c/b", "http://[::1]:10000/c/b"),
        ("http://[0:0:0:0:0:0:0:1]:80/c/b", "http://[::1]/c/b"),
        ("https://[2001:DB8::1]/c/b", "https://[2001:db8::1]/c/b"),
    ];
    for (text, normal) in same {
        let uri = BlobUri::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(uri.normalised(), normal, "{text}");
        assert_eq!(BlobUri::parse(normal).unwrap(), uri, "{text}");
    }
}

#[test]
fn addresses_that_mean_something_else_to_someone_are_refused() {
    let refused = [
        ("", "is not an absolute https address"),
        ("container/blob", "is not an absolute https address"),
        ("//a.example/c/b", "is not an absolute https address"),
        ("https:/a.example/c/b", "is not an absolute https address"),
        ("https:a.example/c/b", "is not an absolute https address"),
        (" https://a.example/c/b", "is not an https address"),
        ("file:///c/b", "is not an https address"),
        ("ftp://a.example/c/b", "is not an https address"),
        ("data://a.example/c/b", "is not an https address"),
        ("http://account.blob.core.windows.net/c/b", "http is taken for loopback only"),
        ("http://127.0.0.1.evil.example/c/b", "http is taken for loopback only"),
        ("http://localhost.evil.example/c/b", "http is taken for loopback only"),
        ("http://128.0.0.1/c/b", "http is taken for loopback only"),
        ("http://0.0.0.0/c/b", "http is taken for loopback only"),
        ("http://[::2]/c/b", "http is taken for loopback only"),
        ("https://user@a.example/c/b", "carries a user name"),
        ("https://user:SECRET@a.example/c/b", "carries a user name"),
        ("https://account.blob.core.windows.net@evil.example/c/b", "carries a user name"),
        ("https:///c/b", "has no valid host"),
        ("https://[::1/c/b", "has no valid host"),
        ("https://a b.example/c/b", "has an escaped host"),
        ("https://a%2eexample/c/b", "has an escaped host"),
        ("https://a<b/c/b", "has no valid host"),
        ("https://a.example:0/c/b", "has a port outside 1 to 65535"),
        ("https://a.example:65536/c/b", "has a port outside 1 to 65535"),
        ("https://a.example:+80/c/b", "has a port that is no number"),
        ("https://a.example:8o/c/b", "has a port that is no number"),
        ("https://a.example", "names no blob"),
        ("https://a.example?/c/b", "names no blob"),
        ("https://a.example/", "has an empty path segment"),
        ("https://a.example/c", "names no blob in a container"),
        ("https://a.example/c/", "has an empty path segment"),
        ("https://a.example//b", "has an empty path segment"),
        ("https://a.example/c//b", "has an empty path segment"),
        ("https://a.example/c/./b", "has a dot segment"),
        ("https://a.example/c/../b", "has a dot segment"),
        ("https://a.example/c/..", "has a dot segment"),
        ("https://a.example/c/%2e%2e/b", "has a dot segment"),
        ("https://a.example/c/.%2E/b", "has a dot segment"),
        ("https://a.example/c/%2e/b", "has a dot segment"),
        ("https://a.example/c/a%2fb", "has an escaped slash or backslash"),
        ("https://a.example/c/..%2Fother/b", "has an escaped slash or backslash"),
        ("https://a.example/c/a%5Cb", "has an escaped slash or backslash"),
        ("https://a.example/c/..\\b", "holds a backslash"),
        ("https://a.example\\@evil.example/c/b", "holds a backslash"),
        ("https://a.example/c/b#SECRET", "has a fragment"),
        ("https://a.example/c/b?x#SECRET", "has a fragment"),
        ("https://a.example/c/b\n", "holds a control character"),
        ("https://a.ex\tample/c/b", "holds a control character"),
        ("https://a.example/c/b\0", "holds a control character"),
        ("https://a.example/c/b%00", "holds an escaped control character"),
        ("https://a.example/c/b%0D%0AX", "holds an escaped control character"),
        ("https://a.example/c/b%7F", "holds an escaped control character"),
        ("https://a.example/c/b%C2%85", "holds an escaped control character"),
        ("https://a.example/c/b%", "has a '%' without two hexadecimal digits"),
        ("https://a.example/c/b%2", "has a '%' without two hexadecimal digits"),
        ("https://a.example/c/b%zz", "has a '%' without two hexadecimal digits"),
        ("https://a.example/c/b%+1", "has a '%' without two hexadecimal digits"),
        ("https://a.example/c/b%FF", "has escapes that are not UTF-8"),
    ];
    for (text, words) in refused {
        let error = BlobUri::parse(text).expect_err(text);
        assert_eq!(error.reason, Reason::BadUri);
        assert!(error.to_string().contains(words), "{text:?}: {error}");
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("SECRET") && !shown.contains("example"), "{shown}");
    }
}

#[test]
fn an_address_longer_than_any_blob_is_refused() {
    let longest = format!("https://a.example/{}/{}/{}", "a".repeat(24), "c".repeat(63), "b".repeat(1_024));
    assert!(BlobUri::parse(&longest).is_ok());
    assert!(BlobUri::parse(&format!("{longest}b")).unwrap_err().to_string().contains("longer than"));
}

#[test]
fn a_blob_is_found_under_its_own_grant_only() {
    let cases = [
        ("https://a.example/c/x/b.gz", "https://a.example", "c", Some("x/b.gz")),
        ("https://a.example/c/x/b.gz", "https://A.Example:443/", "c", Some("x/b.gz")),
        ("https://a.example/c/%C3%A5%20b", "https://a.example", "c", Some("å b")),
        ("https://a.example/c/b", "https://a.example.evil.example", "c", None),
        ("https://b.example/c/b", "https://a.example", "c", None),
        ("https://a.example:8443/c/b", "https://a.example", "c", None),
        ("https://a.example/c2/b", "https://a.example", "c", None),
        ("https://a.example/C/b", "https://a.example", "c", None),
        ("https://a.example/other/c/b", "https://a.example", "c", None),
        ("http://127.0.0.1:1/account/c/b", "http://127.0.0.1:1/account", "c", Some("b")),
        ("http://127.0.0.1:1/account/c/b", "http://127.0.0.1:1/account/", "c", Some("b")),
        ("http://127.0.0.1:1/account/c/b", "http://127.0.0.1:1", "c", None),
        ("http://127.0.0.1:1/other/c/b", "http://127.0.0.1:1/account", "c", None),
        ("http://127.0.0.1:1/account/c/b", "http://127.0.0.1:2/account", "c", None),
        ("http://127.0.0.1:1/account/c/b", "https://127.0.0.1:1/account", "c", None),
        ("http://127.0.0.1:1/account/c", "http://127.0.0.1:1/account", "c", None),
        ("http://localhost:1/account/c/b", "http://127.0.0.1:1/account", "c", None),
        ("http://[0::1]:1/account/c/b", "http://[::1]:1/account", "c", Some("b")),
        ("https://a.example/c/b", "sb://a.example", "c", None),
    ];
    for (text, endpoint, container, name) in cases {
        let found = BlobUri::parse(text).unwrap().under(&endpoint.parse().unwrap(), container);
        assert_eq!(found.as_ref().map(|name| name.as_str()), name, "{text} under {endpoint}");
    }
}
