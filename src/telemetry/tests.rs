use super::*;

#[test]
fn a_bare_level_is_ours_and_libraries_stay_quiet() {
    let setting = LogSetting::default();
    let shown = |env| directives(&setting, env).unwrap().to_string();
    for (env, wanted) in [
        (None, "satlet=info,warn"),
        (Some(""), "satlet=info,warn"),
        (Some("debug"), "satlet=debug,warn"),
        (Some("satlet::wallet=trace"), "satlet::wallet=trace"),
    ] {
        assert_eq!(shown(env), wanted, "{env:?}");
    }
}

#[test]
fn directives_that_cannot_be_read_are_an_error() {
    let wrong = directives(&LogSetting::default(), Some("satlet=loud"));
    assert!(matches!(wrong, Err(LogError::Directives(_))));
}
