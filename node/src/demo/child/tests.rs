use super::*;

const LISTENING: &str = r#"echo '{"event":"listening","address":"127.0.0.1:1"}'"#;

fn fleet(timeout: Duration, scripts: &[String]) -> Fleet {
    let mut fleet = Fleet::new(timeout, &Cleanup::default());
    for (number, script) in (0..).zip(scripts) {
        let mut command = Command::new("/bin/sh");
        fleet.start(InstanceId(number), command.args(["-c", script])).expect("a shell");
    }
    fleet
}

fn long(scripts: &[&str]) -> Fleet {
    let scripts: Vec<_> = scripts.iter().map(ToString::to_string).collect();
    fleet(Duration::from_secs(30), &scripts)
}

#[test]
fn agents_are_told_and_heard_until_they_exit() {
    let progress = r#"echo '{"event":"progress","transfers":5,"audits":2,"pages_shipped":1}'"#;
    let report = serde_json::to_string(&Event::Report(Box::default())).expect("JSON");
    let script = |delay: &str| {
        format!(
            "{LISTENING}; read start; test \"$start\" = \"start\" || exit 9; {progress}; \
             read quit; {delay} echo '{report}'"
        )
    };
    // The second one speaks when the first one is gone.
    let scripts = [script(""), script("read more;")];
    let mut fleet = fleet(Duration::from_secs(30), &scripts);
    let told = fleet.wait_all("listening").expect("both listen");
    assert_eq!(told.len(), 2);
    fleet.tell(&Order::Start);
    let mut shown = 0;
    fleet.watch(Duration::from_millis(200), |_, _| shown += 1).expect("both work");
    fleet.tell(&Order::Quit);
    let first = fleet.members.get_mut(&InstanceId(0)).expect("a child");
    let deadline = Instant::now() + Duration::from_secs(30);
    assert!(first.process.wait(deadline).is_some(), "the first one is gone");
    fleet.tell(&Order::Quit);
    assert_eq!(fleet.wait_all(LAST_EVENT).expect("both report").len(), 2);
    fleet.finish().expect("both exit 0");
    assert!(shown <= 2);
}

#[test]
fn a_child_that_dies_is_named_with_its_status() {
    let mut fleet = long(&["read forever", "exit 7"]);
    let error = fleet.wait_all("listening").expect_err("instance 1 died").to_string();
    assert!(error.starts_with("instance 1 ended early (exit status: 7)"), "{error}");
    assert!(error.contains("expected 'listening'"), "{error}");
    assert!(error.contains("it left no word") && !error.contains("above"), "{error}");
}

#[test]
fn a_child_that_dies_with_last_words_is_told_to_have_had_them() {
    let mut fleet = long(&["read forever", "echo 'a test that speaks' >&2; kill -9 $$"]);
    let error = fleet.wait_all("listening").expect_err("instance 1 died").to_string();
    assert!(error.contains("signal: 9") && error.contains("see its last lines above"), "{error}");
}

#[test]
fn a_child_that_reports_an_error_is_quoted() {
    let script = r#"echo '{"event":"error","message":"port is busy"}'; exit 1"#;
    let mut fleet = long(&[script, "read forever"]);
    let error = fleet.wait_all("listening").expect_err("instance 0 failed").to_string();
    assert_eq!(error, "instance 0 failed: port is busy");
}

#[test]
fn a_death_explains_the_complaint_of_another() {
    let complaint = r#"echo '{"event":"error","message":"peer 1 is gone"}'; read forever"#;
    let mut fleet = long(&[complaint, "kill -9 $$"]);
    let error = fleet.watch(Duration::from_secs(30), |_, _| {}).expect_err("1 was killed");
    assert!(matches!(error, ChildError::Died { instance: InstanceId(1), .. }), "{error}");
    assert!(error.to_string().contains("signal: 9"), "{error}");
}

#[test]
fn silence_garbage_and_a_wrong_event_are_refused() {
    let mut silent = fleet(Duration::from_millis(50), &["read forever".to_owned()]);
    let error = silent.wait_all("ready").expect_err("it says nothing");
    assert!(matches!(error, ChildError::Timeout { expected: "ready", .. }), "{error}");

    let mut garbage = long(&["echo hello; read forever"]);
    let error = garbage.wait_all("ready").expect_err("no event").to_string();
    assert!(error.starts_with("instance 0 told 'hello', expected 'ready'"), "{error}");

    let mut wrong = long(&[&format!("{LISTENING}; read forever")]);
    let error = wrong.wait_all("ready").expect_err("another event").to_string();
    assert!(error.starts_with("instance 0 told 'listening', expected 'ready'"), "{error}");
}

#[test]
fn a_bad_exit_at_the_end_is_an_error() {
    let fleet = long(&["exit 3"]);
    let error = fleet.finish().expect_err("status 3").to_string();
    assert!(error.contains("ended with exit status: 3"), "{error}");
}

#[test]
fn no_child_outlives_the_fleet() {
    let mut fleet = long(&["echo $$ >&2; exec sleep 1000"]);
    let id = fleet.members.values_mut().next().expect("a child");
    let id = lock(&id.process.child).id();
    assert!(std::path::Path::new(&format!("/proc/{id}")).exists());
    drop(fleet);
    assert!(!std::path::Path::new(&format!("/proc/{id}")).exists());
}

#[test]
fn a_helper_returns_its_output_or_is_killed() {
    let mut command = Command::new("/bin/sh");
    let helper = command.args(["-c", "echo done; exit 4"]);
    let (status, text) =
        run_helper(helper, "the helper", Duration::from_secs(30), &Cleanup::default())
            .expect("it ran");
    assert_eq!((status.code(), text.as_str()), (Some(4), "done\n"));
    let mut command = Command::new("/bin/sh");
    let helper = command.args(["-c", "exec sleep 1000"]);
    let error = run_helper(helper, "the helper", Duration::from_millis(50), &Cleanup::default())
        .expect_err("late");
    assert!(matches!(error, ChildError::HelperTimeout { .. }), "{error}");
}
