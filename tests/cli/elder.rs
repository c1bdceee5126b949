//! `satlet` and a provider of the older kind: what is said, what is asked for,
//! what gets one in.

use std::os::unix::fs::PermissionsExt;
use std::process::Output;
use std::sync::{Arc, Mutex};

use satlet::demo::mint::TestMint;
use serde_json::Value;

use crate::support::elder::{Elder, Manner};
use crate::support::openssh::missing;
use crate::support::password_host::PasswordHost;
use crate::support::world::{Person, World, one_document};

async fn elder(world: &World) -> Elder {
    let mint: &TestMint = &world.mint;
    let elder = Elder::start(&world.urls()[0], &mint.url().0).await;
    elder.offer("OldOak\u{1b}[2J").await;
    elder
}

fn code(output: &Output) -> (Option<i32>, String) {
    let json = one_document(output);
    let code = json["error"]["code"].as_str();
    (output.status.code(), code.unwrap_or_default().to_owned())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_dialect_lacks_is_said_before_anything_is_paid() {
    let world = World::start(1).await;
    let elder = elder(&world).await;
    let me = Person::new(&world, "me", 100).await;
    let listed = me.run(&["list"]).await;
    let shown = text(&listed.stdout);
    for part in [
        "paygress/1",
        "shared-kernel",
        "online",
        "no refund",
        "SSH by password",
        r"\u{1b}",
    ] {
        assert!(shown.contains(part), "no {part} in {shown}");
    }
    assert!(!shown.contains('\u{1b}'), "{shown}");
    let listed = me.json(&["list"]).await;
    let one = &listed["providers"][0];
    assert_eq!(
        (&one["dialect"], &one["online"]),
        (&"paygress/1".into(), &true.into())
    );
    assert!(
        one["lacks"]
            .as_array()
            .unwrap()
            .contains(&"no quote".into()),
        "{one}"
    );

    // Without a terminal nobody can agree: nothing is paid.
    let refused = me.run(&["--json", "spawn", "oldoak", "--for", "10m"]).await;
    assert_eq!(
        code(&refused),
        (Some(2), "no_refund_not_accepted".to_owned())
    );
    let said = text(&refused.stderr);
    assert!(
        said.contains("there is no refund") && said.contains("password"),
        "{said}"
    );
    let refused = me
        .run(&[
            "--json",
            "spawn",
            "oldoak",
            "--for",
            "3d",
            "--accept-no-refund",
        ])
        .await;
    assert_eq!(code(&refused), (Some(2), "not_confirmed".to_owned()));
    let refused = me.run(&["--json", "quote", "oldoak"]).await;
    assert_eq!(code(&refused), (Some(4), "not_in_dialect".to_owned()));
    let refused = me.run(&["--json", "ls", "--provider", "oldoak"]).await;
    assert_eq!(code(&refused), (Some(4), "not_in_dialect".to_owned()));
    assert_eq!(me.balance().await, 100_000);
    assert!(elder.heard().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_rented_shown_and_not_stopped() {
    let world = World::start(1).await;
    let elder = elder(&world).await;
    let me = Person::new(&world, "me", 200).await;
    let args = [
        "--json",
        "spawn",
        "oldoak",
        "--for",
        "10m",
        "--accept-no-refund",
    ];
    let sold = me.run(&args).await;
    assert!(sold.status.success(), "{sold:?}");
    let password = elder.password();
    let all = text(&sold.stdout) + &text(&sold.stderr);
    assert!(
        !all.contains(&password) && all.contains("there is no refund"),
        "{all}"
    );
    let sold = one_document(&sold);
    assert_eq!(
        (&sold["dialect"], &sold["state"]),
        (&"paygress/1".into(), &"active".into())
    );
    let lease = sold["lease"].as_str().unwrap().to_owned();

    for args in [
        &["ls"][..],
        &["--json", "ls"],
        &["status", &lease],
        &["--json", "show", &lease],
    ] {
        let shown = me.run(args).await;
        assert!(shown.status.success(), "{args:?} {shown:?}");
        assert!(
            !text(&shown.stdout).contains(&password),
            "{args:?} {shown:?}"
        );
    }
    let shown = me.json(&["show", &lease, "--password"]).await;
    assert_eq!(shown["password"], password.as_str());
    assert_eq!(shown["access"]["host"], "203.0.113.9");
    let files: Vec<_> = std::fs::read_dir(me.home.join("ssh/passwords"))
        .unwrap()
        .collect();
    assert_eq!(files.len(), 1);
    let mode = files[0]
        .as_ref()
        .unwrap()
        .metadata()
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);

    let added = me.json(&["topup", &lease, "--for", "2m"]).await;
    assert!(added["added_seconds"].as_u64().unwrap() >= 120, "{added}");
    let history = me.json(&["wallet", "history"]).await;
    let tokens = history["tokens"].as_array().unwrap();
    assert_eq!(tokens.len(), 2, "{history}");
    for token in tokens {
        assert_eq!(
            (&token["state"], &token["lease"]),
            (&"spent".into(), &sold["lease"])
        );
        assert!(token["fee_msat"].is_null(), "nobody told: {token}");
    }
    for (command, hint) in [
        ("stop", "runs out by itself"),
        ("logs", "satlet exec"),
        ("receipt", "satlet show"),
    ] {
        let refused = me.run(&["--json", command, &lease]).await;
        assert_eq!(code(&refused), (Some(4), "not_in_dialect".to_owned()));
        let json = one_document(&refused);
        let suggestion = json["error"]["suggestion"].as_str().unwrap();
        assert!(suggestion.contains(hint), "{suggestion}");
    }

    // What another rental loses is listed as lost.
    elder.behave(Manner {
        fails: Some("backend_error"),
        ..Manner::default()
    });
    let failed = me.run(&["--json", "spawn", "oldoak", "--yes"]).await;
    assert_eq!(code(&failed), (Some(5), "backend_error".to_owned()));
    assert_eq!(one_document(&failed)["error"]["money"], "taken");
    let refunds = me.json(&["wallet", "refunds"]).await;
    assert_eq!(refunds["lost"].as_array().unwrap().len(), 1, "{refunds}");
    assert!(
        refunds["lost"][0]["token_msat"].as_u64().unwrap() >= 3_000,
        "{refunds}"
    );
    let refunds = me.run(&["wallet", "refunds"]).await;
    assert!(text(&refunds.stdout).contains("lost: "), "{refunds:?}");
}

/// Rents a box of a host that asks for a password, and gives the lease.
async fn rent_box(
    me: &Person,
    elder: &Elder,
    host: &PasswordHost,
    opens: &Mutex<String>,
) -> String {
    elder.behave(Manner {
        ssh: Some(("127.0.0.1".to_owned(), host.port)),
        ..Manner::default()
    });
    let sold = me.json(&["spawn", "oldoak", "--yes", "--for", "1h"]).await;
    *opens.lock().unwrap() = elder.password();
    sold["lease"].as_str().unwrap().to_owned()
}

/// Enters by one of the clients: the first host key is kept, another refused.
async fn enters(flag: Option<&str>) {
    let world = World::start(1).await;
    let elder = elder(&world).await;
    let me = Person::new(&world, "me", 400).await;
    let opens = Arc::<Mutex<String>>::default();
    let host = PasswordHost::start(opens.clone(), 0).await;
    let lease = rent_box(&me, &elder, &host, &opens).await;
    let exec = || {
        let mut args = vec!["--json", "exec"];
        args.extend(flag);
        args.extend([lease.as_str(), "--", "echo hi; exit 3"]);
        args
    };
    let ran = me.run(&exec()).await;
    assert_eq!(ran.status.code(), Some(3), "{ran:?}");
    assert_eq!(one_document(&ran)["stdout"], "hi\n");
    assert!(text(&ran.stderr).contains("first contact"), "{ran:?}");
    let ran = me.run(&exec()).await;
    assert_eq!(ran.status.code(), Some(3), "{ran:?}");
    assert!(!text(&ran.stderr).contains("first contact"), "{ran:?}");

    // How ssh would be called: the password is nowhere in it.
    let shown: Value = me.json(&["ssh", &lease]).await;
    assert!(!shown.to_string().contains(&elder.password()), "{shown}");

    let port = host.port;
    host.stop().await;
    let other = PasswordHost::start(opens.clone(), port).await;
    let ran = me.run(&exec()).await;
    assert_eq!(
        code(&ran),
        (Some(7), "wrong_host_key".to_owned()),
        "{ran:?}"
    );
    assert!(other.tried().is_empty(), "the password was not sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_with_a_password_is_entered_by_the_built_in_client() {
    enters(Some("--builtin")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_box_with_a_password_is_entered_by_the_system_s_openssh() {
    if let Some(tool) = missing(&["ssh"]) {
        skip!("no {tool} is installed");
    }
    enters(None).await;
}
