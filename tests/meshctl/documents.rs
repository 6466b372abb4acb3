//! Help, completions and man pages: from the same definitions.

use crate::fake::Place;

#[test]
fn help_lists_commands_and_exit_codes() {
    let place = Place::new();
    for flag in ["--help", "-h"] {
        let ran = place.run(&[flag]);
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
        for word in ["service", "backend", "top", "Exit codes:", "75  accepted"] {
            assert!(ran.out.contains(word), "{word}: {}", ran.out);
        }
        assert!(!ran.out.contains("generate") && !ran.out.contains("patience"), "{}", ran.out);
    }
    assert_eq!(place.run(&["--version"]).out, format!("meshctl {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn shells_complete_what_there_is() {
    let place = Place::new();
    for (shell, word) in
        [("bash", "complete -F _meshctl"), ("zsh", "#compdef meshctl"), ("fish", "complete -c meshctl")]
    {
        for command in ["completions", "generate-completions"] {
            let ran = place.run(&[command, shell]);
            assert_eq!(ran.code, Some(0), "{ran:?}");
            assert!(ran.out.contains(word) && ran.out.contains("publish-add"), "{shell}");
        }
    }
    assert_eq!(place.run(&["completions", "tcsh"]).code, Some(64));
}

#[test]
fn man_pages_are_written() {
    let place = Place::new();
    let directory = place.file("share/man1");
    let ran = place.run(&["generate-man", directory.to_str().expect("UTF-8")]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (Some(0), "", ""));
    let page = std::fs::read_to_string(directory.join("meshctl-service-add.1")).expect("a page");
    assert!(page.contains("EXIT STATUS") && page.contains("20229:9092"), "{page}");

    std::fs::write(place.file("file"), "").expect("a file");
    let ran = place.run(&["generate-man", place.file("file/x").to_str().expect("UTF-8")]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.err.starts_with("meshctl: cannot write to "), "{ran:?}");
}
