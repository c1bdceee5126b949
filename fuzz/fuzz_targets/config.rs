//! Configuration files: a validated value, or everything that is wrong with
//! its place, in words.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use satlet::config;

fuzz_target!(|text: &str| {
    match config::parse(text, Path::new("/etc/satlet")) {
        Ok(config) => {
            let settings = &config.settings;
            assert!(settings.tiers.iter().all(|tier| tier.max_price().is_some()));
            assert!(!settings.relays.is_empty() && !settings.mints.is_empty());
            assert!(settings.images.allows(&settings.images.default));
            for path in [&config.nsec_file, &config.mnemonic_file, &settings.data_dir] {
                assert!(path.is_absolute(), "{path:?}");
            }
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            for problem in &problems {
                assert!(problem.pointer.is_empty() || problem.pointer.starts_with('/'));
                assert!(!problem.message.is_empty() && !problem.fix.is_empty());
                let _ = problem.to_string();
            }
            // A place that is named can be found, but for what is missing.
            if let Ok(value) = serde_json::from_str::<serde_json::Value>(text) {
                for problem in &problems {
                    let parent = problem
                        .pointer
                        .rsplit_once('/')
                        .map_or("", |(parent, _)| parent);
                    let known = value.pointer(&problem.pointer).or(value.pointer(parent));
                    assert!(
                        known.is_some() || problem.message.contains("missing"),
                        "{problem}"
                    );
                }
            }
        }
    }
});
