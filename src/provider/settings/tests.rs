use super::*;

#[test]
fn an_image_is_allowed_by_its_full_name() {
    let policy = ImagePolicy {
        default: "host".to_owned(),
        allow: ["host", "mine", "docker.io/library/*"]
            .map(str::to_owned)
            .to_vec(),
        layouts: BTreeMap::from([("mine".to_owned(), PathBuf::from("/images/mine"))]),
        max_mib: 1024,
    };
    for (image, wanted) in [
        ("host", true),
        ("mine", true),
        ("debian:12", true),
        ("docker.io/library/debian:12", true),
        ("somebody/debian:12", false),
        ("registry.test/debian:12", false),
        ("hosts", true),
        ("no reference", false),
    ] {
        assert_eq!(policy.allows(image), wanted, "{image}");
    }
}
