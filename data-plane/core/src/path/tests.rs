use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::*;

#[test]
fn normal_forms() {
    for (path, normal) in [
        ("", "/"),
        ("*", "*"),
        ("/", "/"),
        ("//", "/"),
        ("/a//b///", "/a/b/"),
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/a//../b", "/b"),
        ("/a/b/..", "/a/"),
        ("/a/.", "/a/"),
        ("/..", "/"),
        ("/../../a", "/a"),
        ("/%2e%2E/a", "/a"),
        ("/a/%2e/b", "/a/b"),
        ("/.%2e/a", "/a"),
        ("/%61dmin", "/admin"),
        ("/a%2Db%5F%7e", "/a-b_~"),
        ("/a%2fb", "/a%2Fb"),
        ("/a%2Fb", "/a%2Fb"),
        ("/a%3bb", "/a%3Bb"),
        ("/a;v=1/b", "/a;v=1/b"),
        ("/.well-known/x", "/.well-known/x"),
        ("/...", "/..."),
        ("/é", "/%C3%A9"),
        ("/{a}|\"", "/%7Ba%7D%7C%22"),
        ("/%25%32%65", "/%252e"),
        ("/%0a", "/%0A"),
    ] {
        assert_eq!(normalise(path).as_deref(), Ok(normal), "{path:?}");
    }
}

#[test]
fn refused() {
    for (path, why) in [
        ("a", BadPath::NotAbsolute),
        ("http://x/", BadPath::NotAbsolute),
        ("**", BadPath::NotAbsolute),
        ("/a\0", BadPath::Character),
        ("/a\u{7f}", BadPath::Character),
        ("/a b", BadPath::Character),
        ("/a\\..\\b", BadPath::Character),
        ("/a#b", BadPath::Character),
        ("/a?b", BadPath::Character),
        ("/a%00", BadPath::EncodedCharacter),
        ("/a%5C..%5cb", BadPath::EncodedCharacter),
        ("/a%", BadPath::Encoding),
        ("/a%4", BadPath::Encoding),
        ("/a%/b", BadPath::Encoding),
        ("/a%zz", BadPath::Encoding),
        ("/a%é", BadPath::Encoding),
        ("/public/..%2Fadmin", BadPath::HiddenDots),
        ("/public/%2e%2E%2fadmin", BadPath::HiddenDots),
        ("/public/x%2F..%2Fadmin", BadPath::HiddenDots),
        ("/public/x%2F..", BadPath::HiddenDots),
        ("/public/..;/admin", BadPath::HiddenDots),
        ("/public/..%3Bx/admin", BadPath::HiddenDots),
        ("/public/.;x", BadPath::HiddenDots),
        ("/a/.;/b", BadPath::HiddenDots),
        ("/a/..;x=1%2Fy/b", BadPath::HiddenDots),
        ("/a/%2e%2e;/b", BadPath::HiddenDots),
        ("/a;x%2F../b", BadPath::HiddenDots),
        ("/a/..;%3B/b", BadPath::HiddenDots),
    ] {
        assert_eq!(normalise(path), Err(why), "{path:?}");
    }
}

#[test]
fn other_readings_are_those_of_apps() {
    for (path, others) in [
        ("/admin/x", &[][..]),
        ("*", &[]),
        ("/%25", &[]),
        ("/things%3Adelete", &["/things:delete"]),
        ("/a%2C%20%253A", &["/a,%20%253A"]),
        ("/a%2Fb", &["/a/b"]),
        ("/a%2F%2Fb", &["/a/b"]),
        ("/admin;x", &["/admin"]),
        ("/admin;x=1;y/b;z", &["/admin/b"]),
        ("/;x/admin", &["/admin"]),
        ("/admin/;", &["/admin/"]),
        ("/admin%3Bx/b", &["/admin;x/b", "/admin/b"]),
        ("/admin;a%3Bb/c", &["/admin;a;b/c", "/admin/c"]),
        ("/a%3Bx;y", &["/a;x;y", "/a;x", "/a%3Bx", "/a"]),
        ("/a%2Fb;x", &["/a/b;x", "/a%2Fb", "/a/b"]),
        ("/a;x%2Fb", &["/a;x/b", "/a", "/a/b"]),
    ] {
        assert_eq!(normalise(path).as_deref(), Ok(path), "{path}");
        assert_eq!(other_readings(path), others, "{path}");
    }
}

/// Nothing reads a path in a way that policies don't look at.
#[test]
fn whatever_others_read_policies_look_at() {
    let mut judged = 0;
    for row in include_str!("judges.tsv").lines().filter(|row| !row.starts_with('#')) {
        let mut columns = row.split('\t');
        let path = columns.next().unwrap();
        assert_eq!(normalise(path).as_deref(), Ok(path));
        let others = other_readings(path);
        for read in columns.filter(|read| *read != "refused") {
            let mut written = String::new();
            for byte in read.bytes() {
                if byte == b'/' || is_path_character(byte) {
                    written.push(char::from(byte));
                } else {
                    push_encoded(&mut written, byte);
                }
            }
            assert!(
                written == path || others.contains(&written),
                "{path} is read as {written}, not only as {others:?}"
            );
            judged += 1;
        }
    }
    assert!(judged > 2000, "{judged}");
}

#[test]
fn clean_paths_are_borrowed() {
    for path in ["/", "/a/b.c/d-e_f~", "/.well-known/acme", "/a.b/c..d", "/shop.Cart/Add", "/a:b@c;d=1,2"] {
        assert!(matches!(normalise(path), Ok(Cow::Borrowed(_))), "{path:?}");
    }
}

#[test]
fn normalising_twice_changes_nothing() {
    const PIECES: &[&str] =
        &["/", "//", ".", "..", "a", "%2e", "%2E", "%2F", "%2f", "%41", "%c3", ";", "%3b", "é", "{", "%25", "b", "\\"];
    let mut random = SmallRng::seed_from_u64(1);
    for _ in 0..50_000 {
        let mut path = String::from("/");
        for _ in 0..random.random_range(0..9) {
            path.push_str(PIECES[random.random_range(0..PIECES.len())]);
        }
        let Ok(once) = normalise(&path) else { continue };
        assert_eq!(normalise(&once).as_deref(), Ok(&*once), "{path:?}");
        assert!(!once.contains("//") && !once.contains("/../") && !once.ends_with("/.."), "{path:?} → {once:?}");
        assert!(!once.contains("/./") && !once.ends_with("/."), "{path:?} → {once:?}");
    }
}

#[test]
fn targets() {
    assert_eq!(split_target("/a?b?c"), ("/a", Some("b?c")));
    assert_eq!(split_target("/a?"), ("/a", Some("")));
    assert_eq!(split_target("/a"), ("/a", None));
}
