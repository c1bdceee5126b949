//! Documents and code say the same.

use satlet::protocol::error::Code;

use crate::support::read;

/// Rows of the Markdown table whose first heading is `head`: cells, trimmed.
fn table(text: &str, head: &str) -> Vec<Vec<String>> {
    text.lines()
        .skip_while(|line| !line.starts_with(&format!("| {head} |")))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells = line.trim().trim_matches('|').split('|');
            cells.map(|cell| cell.trim().to_owned()).collect()
        })
        .collect()
}

#[test]
fn the_spec_of_errors_has_every_code_and_no_other() {
    let rows = table(&read("specs/errors.md"), "code");
    let documented: Vec<&str> = rows.iter().map(|row| row[0].trim_matches('`')).collect();
    let there: Vec<&str> = Code::ALL.iter().map(Code::as_str).collect();
    assert_eq!(documented, there);
    for row in &rows {
        assert_eq!(row.len(), 4, "{row:?}");
        assert!(row.iter().all(|cell| !cell.is_empty()), "{row:?}");
        for money in row[2].split(", ") {
            assert!(
                ["untouched", "pending", "taken"].contains(&money),
                "{row:?}"
            );
        }
    }
}

#[test]
fn the_limits_in_the_specs_are_the_program_s() {
    let requests = read("specs/requests.md");
    assert!(requests.contains(&format!("over {} bytes", satlet::protocol::MAX_REQUEST)));
    assert!(requests.contains(&format!("at most {} bytes", satlet::protocol::MAX_TOKEN)));
    let receipt = read("specs/receipt.md");
    let content = satlet::protocol::receipt::MAX_CONTENT;
    assert!(receipt.contains(&format!("at most {content} bytes")));
    assert!(receipt.contains(&format!(
        "| {}, an ephemeral",
        satlet::protocol::receipt::KIND
    )));
    let (paid, back) = (
        satlet::core::receipt::MAX_PAYMENTS,
        satlet::core::receipt::MAX_REFUNDS,
    );
    assert!(receipt.contains(&format!("the newest {paid} payments")));
    assert!(receipt.contains(&format!("the newest {back} refunds")));
    let replies = read("specs/replies.md");
    assert!(replies.contains(&format!(
        "at most {} bytes",
        satlet::protocol::MAX_LOG_BYTES
    )));
}

#[test]
fn the_exit_codes_in_the_documentation_are_the_program_s() {
    use satlet::cli::satletd::Exit;
    let rows = table(&read("docs/operating.md"), "code");
    let documented: Vec<String> = rows.iter().map(|row| row[0].clone()).collect();
    let there = [
        Exit::Done,
        Exit::Failed,
        Exit::Usage,
        Exit::Config,
        Exit::Unfit,
        Exit::NotRunning,
    ];
    assert_eq!(documented, there.map(|exit| (exit as u8).to_string()));
}

#[test]
fn the_readme_starts_with_the_demo_and_the_tests() {
    let readme = read("README.md");
    let mut commands = readme.lines().filter(|line| line.starts_with("cargo "));
    assert_eq!(
        commands.next(),
        Some("cargo run --release --features demo --bin satlet -- demo")
    );
    assert_eq!(commands.next(), Some("cargo test"));
}

#[test]
fn links_between_documents_lead_somewhere() {
    for file in [
        "README.md",
        "docs/ARCHITECTURE.md",
        "docs/configuration.md",
        "docs/operating.md",
        "specs/README.md",
        "specs/offer.md",
        "specs/heartbeat.md",
        "specs/requests.md",
        "specs/replies.md",
        "specs/receipt.md",
        "specs/lease-states.md",
        "specs/errors.md",
        "specs/paygress.md",
    ] {
        let folder = crate::support::root()
            .join(file)
            .parent()
            .unwrap()
            .to_owned();
        for link in read(file).split("](").skip(1) {
            let target = link.split([')', '#']).next().unwrap();
            let there =
                target.contains("://") || target.contains('*') || folder.join(target).exists();
            assert!(there, "{file}: {target}");
        }
    }
}

/// The file of a module path such as `scenarios::wallet` or `wallet::tests`.
fn source_of(module: &str) -> Option<String> {
    let below = module.replace("::", "/");
    let names = ["src", "tests"].map(|top| format!("{top}/{below}"));
    let names = names
        .iter()
        .flat_map(|name| [format!("{name}.rs"), format!("{name}/mod.rs")]);
    let mut there = names.filter(|name| crate::support::root().join(name).exists());
    there.next().map(|name| read(&name))
}

#[test]
fn each_row_of_what_breaks_names_tests_that_are_there() {
    let rows = table(&read("docs/PAYMENTS.md"), "row");
    assert!(rows.len() > 15, "{rows:?}");
    let mut named = Vec::new();
    for row in &rows {
        assert_eq!(row.len(), 3, "{row:?}");
        let tests: Vec<&str> = row[2].split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "{row:?}");
        for test in tests {
            let (module, name) = test.rsplit_once("::").unwrap();
            let found = source_of(test).is_some()
                || source_of(module).is_some_and(|text| text.contains(&format!("fn {name}(")));
            assert!(found, "there is no {test}");
            named.push(name.to_owned());
        }
    }
    let text = read("tests/real/rows.rs");
    let made = text.split("rows! {\n").nth(1).unwrap();
    let made = made.split('}').next().unwrap();
    for row in made.lines().map(|line| line.trim().trim_end_matches(',')) {
        let told = row.is_empty() || named.iter().any(|name| name == row);
        assert!(told, "docs/PAYMENTS.md does not tell of {row}");
    }
}
