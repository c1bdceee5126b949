//! The tiny shell.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::compute::fake::{FakeBackend, FakeHost};
use crate::compute::{Backend, ExecCommand, ExecRequest, ExitStatus, Image, TtySize, WorkloadSpec};
use crate::core::capacity::Resources;
use crate::core::ids::{LeaseId, PublicKey};
use crate::core::time::Timestamp;

type Tested = Result<(), Box<dyn std::error::Error>>;
type Ran = Result<(String, ExitStatus), Box<dyn std::error::Error>>;

/// What these lines print, one after the other in one workload, and how the
/// last one ends.
async fn run(lines: &[&str], tty: Option<TtySize>, input: &[u8]) -> Ran {
    let backend = FakeBackend::new("fake".parse()?, FakeHost::default());
    let spec = WorkloadSpec {
        owner: PublicKey::from_bytes([1; 32]),
        image: Image::Host,
        resources: Resources {
            disk_mib: 1,
            ..Resources::default()
        },
        command: Vec::new(),
        env: vec![("NAME".to_owned(), "world".to_owned())],
        expires_at: Timestamp::from_secs(1),
        note: String::new(),
    };
    let key = LeaseId::from_random([3; 12]);
    let handle = backend.create(&key, &spec).await?;
    let mut said = String::new();
    let mut status = ExitStatus::Code(0);
    for line in lines {
        let request = ExecRequest {
            command: ExecCommand::Line((*line).to_owned()),
            env: Vec::new(),
            tty,
        };
        let exec = backend.exec().ok_or("exec")?;
        let mut session = exec.exec(&handle, request).await?;
        session.stdin.write_all(input).await?;
        if tty.is_none() {
            session.stdin.shutdown().await?;
        }
        session.stdout.read_to_string(&mut said).await?;
        status = session.exit.await??;
    }
    Ok((said, status))
}

async fn says(lines: &[&str], text: &str, code: i32) -> Tested {
    let (said, status) = run(lines, None, b"").await?;
    assert_eq!(
        (said.as_str(), status),
        (text, ExitStatus::Code(code)),
        "{lines:?}"
    );
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn words_quotes_and_variables() -> Tested {
    says(
        &["echo a  b 'c  d' \"e $NAME\" '$NAME' $NAME's'"],
        "a b c  d e world $NAME worlds\n",
        0,
    )
    .await?;
    says(
        &["false; echo $?; echo \"\" x; echo ${NAME}!"],
        "1\n x\nworld!\n",
        0,
    )
    .await?;
    says(&["printf 'a\\n%s%%\\n' b"], "a\nb%\n", 0).await
}

#[tokio::test(start_paused = true)]
async fn what_follows_depends_on_what_was() -> Tested {
    says(
        &["true && echo yes || echo no; false && echo yes || echo no"],
        "yes\nno\n",
        0,
    )
    .await?;
    says(&["echo a; exit 3; echo b"], "a\n", 3).await?;
    says(&["sh -c 'exit 4'; echo $?"], "4\n", 0).await?;
    says(&["echo a | cat"], "", 2).await?;
    says(&["nothing-like-this"], "", 127).await
}

#[tokio::test(start_paused = true)]
async fn files_stay_and_fill_the_disk() -> Tested {
    let lines = ["echo one > f; echo two >> f", "cat f; cat < f"];
    says(&lines, "", 2).await?;
    says(
        &["echo one > f; echo two >> f", "cat f; ls"],
        "one\ntwo\nf\n",
        0,
    )
    .await?;
    says(&["test -e f || echo x > f && rm f; test -e f"], "", 1).await?;
    let (_, status) = run(&["cat > big"], None, &vec![0; 1 << 16]).await?;
    assert_eq!(status, ExitStatus::Code(0));
    let (_, status) = run(&["cat > big; exit $?"], None, &vec![0; 2 << 20]).await?;
    assert_eq!(status, ExitStatus::Code(1));
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn a_terminal_ends_lines_its_own_way() -> Tested {
    let size = Some(TtySize { cols: 80, rows: 24 });
    let (said, _) = run(&["stty size; cat"], size, b"typed\r\x04").await?;
    assert_eq!(said, "24 80\r\ntyped\r\n");
    let (_, status) = run(&["cat"], size, b"\x03").await?;
    assert_eq!(status, ExitStatus::Signal(2));
    Ok(())
}
