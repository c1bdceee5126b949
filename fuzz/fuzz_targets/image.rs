//! What a registry says about an image: manifest or index in the first line,
//! configuration in the second.
#![no_main]

use libfuzzer_sys::fuzz_target;
use satlet::compute::sandbox::image::{ImageLimits, read_documents};

fuzz_target!(|text: &str| {
    let (manifest, config) = text.split_once('\n').unwrap_or((text, "{}"));
    let limits = ImageLimits::default();
    match read_documents(manifest.as_bytes(), config.as_bytes(), &limits) {
        Ok(Some(run)) => {
            assert!(run.workdir.starts_with('/'));
            let words = run.entrypoint.iter().chain(&run.cmd).chain([&run.user]);
            assert!(words.chain([&run.workdir]).all(|word| !word.contains('\0')));
        }
        Ok(None) => {}
        Err(error) => assert!(error.to_string().len() < 1000, "a long message: {error}"),
    }
});
