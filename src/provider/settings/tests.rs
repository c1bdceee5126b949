use super::*;

#[test]
fn a_pattern_fits_all_of_an_image_or_not_at_all() {
    for (pattern, image, wanted) in [
        ("host", "host", true),
        ("host", "hosts", false),
        ("*", "", true),
        ("*", "anything", true),
        ("docker.io/library/*", "docker.io/library/debian:12", true),
        ("docker.io/library/*", "docker.io/libraryx/debian", false),
        (
            "docker.io/library/*",
            "evil/docker.io/library/debian",
            false,
        ),
        ("*:latest", "debian:latest", true),
        ("*:latest", "debian:latest2", false),
        ("a*b*c", "aXbYc", true),
        ("a*b*c", "abc", true),
        ("a*b*c", "acb", false),
        ("a*a", "a", false),
        ("ü*", "über", true),
    ] {
        assert_eq!(fits(pattern, image), wanted, "{pattern} {image}");
    }
}
