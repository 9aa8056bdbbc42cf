//! What a process of Tarn keeps resident. Linking this crate sets up the allocator before `main`; [`give_back_code`] lets go of
//! the code that only the start needed. Both are calls of the C library without a safe name in Rust, which is why they stand in a
//! crate of their own: the others forbid `unsafe`. `docs/decisions/0016` says what was measured.

#[cfg(target_os = "linux")]
mod linux {
    #[expect(
        unsafe_code,
        reason = "the C function takes nothing, touches only clean pages of mapped files, and may be called by any thread at any time"
    )]
    // SAFETY: see the reason above and `memory.c`.
    unsafe extern "C" {
        pub(super) safe fn tarn_give_back_code() -> usize;
    }
}

/// Takes the pages of the program's code and constants out of memory, in this process alone, and returns the bytes of the mappings
/// they were in. What is needed again comes back from the page cache when it is touched. To be called when the start is over:
/// reading the command line, the configuration and the store takes code that nothing needs afterwards. On systems other than
/// Linux this does nothing and returns 0.
#[must_use]
pub fn give_back_code() -> usize {
    #[cfg(target_os = "linux")]
    return linux::tarn_give_back_code();
    #[cfg(not(target_os = "linux"))]
    0
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    /// Resident pages of mapped files, in kB, from `/proc/self/status`.
    fn resident_file_kb() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
        let line = status
            .lines()
            .find(|line| line.starts_with("RssFile:"))
            .expect("Linux says it");
        let figure = line.split_whitespace().nth(1).expect("the line has a figure");
        figure.parse().expect("the figure is a number")
    }

    #[test]
    fn code_leaves_memory_and_comes_back() {
        let before = resident_file_kb();
        assert!(super::give_back_code() > 0);
        let after = resident_file_kb();
        assert!(after < before, "{before} kB, then {after} kB");
        assert_eq!("7".parse::<u32>(), Ok(7));
    }
}
