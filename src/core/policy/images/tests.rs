use super::*;

const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

#[test]
fn short_names_mean_what_docker_means() {
    let pinned = format!("sha256:{HEX}");
    for (given, full) in [
        ("debian", "docker.io/library/debian:latest".to_owned()),
        ("debian:12", "docker.io/library/debian:12".to_owned()),
        ("me/app", "docker.io/me/app:latest".to_owned()),
        ("a/b/c:V1.2-x_y", "docker.io/a/b/c:V1.2-x_y".to_owned()),
        (
            "docker.io/debian",
            "docker.io/library/debian:latest".to_owned(),
        ),
        (
            "index.docker.io/debian",
            "docker.io/library/debian:latest".to_owned(),
        ),
        (
            "DOCKER.io/debian",
            "docker.io/library/debian:latest".to_owned(),
        ),
        ("ghcr.io/me/app:1", "ghcr.io/me/app:1".to_owned()),
        ("ghcr.io/app", "ghcr.io/app:latest".to_owned()),
        ("localhost/x", "localhost/x:latest".to_owned()),
        ("LOCALHOST/x", "localhost/x:latest".to_owned()),
        ("localhost:5000/x:y", "localhost:5000/x:y".to_owned()),
        (
            "test.com:5000",
            "docker.io/library/test.com:5000".to_owned(),
        ),
        ("127.0.0.1:5000/x", "127.0.0.1:5000/x:latest".to_owned()),
        ("a--b/c__d.e-f", "docker.io/a--b/c__d.e-f:latest".to_owned()),
        (
            &format!("debian@{pinned}"),
            format!("docker.io/library/debian@{pinned}"),
        ),
        (
            &format!("q.io:1/a/b:t@{pinned}"),
            format!("q.io:1/a/b@{pinned}"),
        ),
    ] {
        assert_eq!(validate_reference(given), Ok(full.clone()), "{given}");
        assert_eq!(validate_reference(&full), Ok(full.clone()), "{full} stays");
    }
}

#[test]
fn what_names_no_image_is_refused() {
    use ReferenceError as E;
    for (given, why) in [
        ("", E::Empty),
        (":tag", E::Name),
        ("Debian", E::Name),
        ("a//b", E::Name),
        ("/a", E::Name),
        ("a/", E::Name),
        ("../etc", E::Registry),
        // In lower case it would be an image of Docker's registry.
        ("REGISTRY/app", E::Registry),
        ("a/../b", E::Name),
        ("a..b", E::Name),
        ("a___b", E::Name),
        ("a_-b", E::Name),
        ("-a", E::Name),
        ("a-", E::Name),
        ("a b", E::Name),
        ("a\nb", E::Name),
        ("a\0", E::Name),
        ("é", E::Name),
        (HEX, E::Name),
        ("a:", E::Tag),
        ("a:.x", E::Tag),
        ("a:x/y", E::Registry),
        ("a:b:c", E::Tag),
        ("a:tag\n", E::Tag),
        ("h.io:0/a", E::Registry),
        ("h.io:70000/a", E::Registry),
        ("h.io:+80/a", E::Registry),
        ("-h.io/a", E::Registry),
        ("h..io/a", E::Registry),
        ("user@h.io/a", E::Digest),
        ("a@sha256:abc", E::Digest),
        ("a@sha512:abc", E::Digest),
        ("a@", E::Digest),
    ] {
        assert_eq!(validate_reference(given), Err(why), "{given:?}");
    }
    let upper = format!("a@sha256:{}", HEX.to_uppercase());
    assert_eq!(validate_reference(&upper), Err(E::Digest));
    assert_eq!(validate_reference(&"a".repeat(256)), Err(E::TooLong));
    assert_eq!(validate_reference(&"a/".repeat(500)), Err(E::TooLong));
    // The limits hold for what is written out, which is read again later.
    assert_eq!(validate_reference(&"a".repeat(248)), Err(E::TooLong));
    let longest = validate_reference(&"a".repeat(247)).unwrap();
    assert_eq!(validate_reference(&longest), Ok(longest));
    assert_eq!(
        validate_reference(&format!("a:{}", "t".repeat(129))),
        Err(E::Tag)
    );
}

#[test]
fn a_star_stands_for_any_run() {
    let yes = |pattern: &str, image: &str| allowed(&[pattern], image);
    assert!(yes("host", "host"));
    assert!(!yes("host", "docker.io/library/host:latest"));
    assert!(yes("*", "host"));
    assert!(yes("docker.io/library/*", "docker.io/library/debian:12"));
    assert!(!yes("docker.io/library/*", "docker.io/libraryx/debian:12"));
    assert!(!yes(
        "docker.io/library/*",
        "evil.io/docker.io/library/debian:12"
    ));
    assert!(yes("*/app:*", "ghcr.io/me/app:1"));
    assert!(yes("ghcr.io/*:stable", "ghcr.io/a/b:stable"));
    assert!(!yes("ghcr.io/*:stable", "ghcr.io/a/b:unstable2"));
    assert!(yes("a*b*c", "aXbYbZc"));
    assert!(!yes("a*b*c", "aXbYbZ"));
    assert!(yes("**", ""));
    assert!(!yes("", "host"));
    assert!(!allowed::<&str>(&[], "host"));
    assert!(allowed(&["x".to_owned(), "host".to_owned()], "host"));
}

#[test]
fn a_short_reference_is_allowed_as_what_it_stands_for() {
    let yes = |pattern: &str, image: &str| allowed(&[pattern], image);
    assert!(yes("debian:12", "docker.io/library/debian:12"));
    assert!(yes("me/app", "docker.io/me/app:latest"));
    assert!(!yes("debian:12", "docker.io/library/debian:13"));
    assert!(!yes("me/app", "docker.io/me/app:12"));
    // A name of a layout opens no registry.
    assert!(!yes("debian12", "docker.io/library/debian12:latest"));
}

#[test]
fn a_pattern_for_tags_does_not_let_digests_through() {
    let pinned = validate_reference(&format!("debian:12@sha256:{HEX}"));
    let pinned = pinned.as_deref().unwrap_or_default();
    assert!(!allowed(&["docker.io/library/debian:12*"], pinned));
    assert!(allowed(&["docker.io/library/debian@*"], pinned));
}

#[test]
fn a_pattern_of_many_stars_is_quick() {
    let pattern = "*a".repeat(200);
    assert!(!allowed(&[pattern], &"a".repeat(150)));
}
