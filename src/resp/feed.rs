//! The arguments of a request that passes in pieces.

/// Splits the bytes of a canonical request, from behind its first line, into arguments, however they are cut.
///
/// To be used behind a [`RequestScanner`](super::RequestScanner), which has found the bytes canonical; others give arguments that
/// mean nothing, but no panic.
#[derive(Debug, Default)]
pub struct ArgFeed {
    stage: Stage,
    /// What has come of an argument that somebody wants.
    held: Vec<u8>,
}

/// Who receives the arguments.
pub trait ArgSink {
    /// Whether the next argument, so many bytes long, is to be kept until it has come whole.
    fn wants(&mut self, length: usize) -> bool;

    /// The next argument; `None` if it was not wanted.
    fn take(&mut self, argument: Option<&[u8]>);
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    /// In a length line that has said so much.
    Length(usize),
    /// In an argument, so many bytes before its end.
    Bytes { left: usize, wanted: bool },
    /// In the CR LF behind an argument.
    End(u8),
}

impl Default for Stage {
    fn default() -> Self {
        Self::Length(0)
    }
}

impl ArgFeed {
    /// Takes the next bytes.
    pub fn feed(&mut self, mut bytes: &[u8], sink: &mut impl ArgSink) {
        loop {
            match &mut self.stage {
                Stage::Length(length) => {
                    let Some((byte, rest)) = bytes.split_first() else {
                        return;
                    };
                    bytes = rest;
                    match byte {
                        b'0'..=b'9' => {
                            *length = length.saturating_mul(10).saturating_add(usize::from(byte - b'0'));
                        }
                        b'\n' => {
                            let left = *length;
                            let wanted = sink.wants(left);
                            self.stage = Stage::Bytes { left, wanted };
                        }
                        _ => {}
                    }
                }
                Stage::Bytes { left, wanted } => {
                    let (now, rest) = bytes.split_at(bytes.len().min(*left));
                    *left -= now.len();
                    bytes = rest;
                    if *left > 0 {
                        if *wanted {
                            self.held.extend_from_slice(now);
                        }
                        return;
                    }
                    if !*wanted {
                        sink.take(None);
                    } else if self.held.is_empty() {
                        sink.take(Some(now));
                    } else {
                        self.held.extend_from_slice(now);
                        sink.take(Some(&self.held));
                        self.held.clear();
                    }
                    self.stage = Stage::End(2);
                }
                Stage::End(left) => {
                    let skipped = bytes.len().min(usize::from(*left));
                    bytes = bytes.split_at(skipped).1;
                    // At most 2.
                    *left -= u8::try_from(skipped).unwrap_or(*left);
                    if *left > 0 {
                        return;
                    }
                    self.stage = Stage::Length(0);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Wants every argument of up to four bytes.
    #[derive(Default)]
    struct Short(Vec<Option<Vec<u8>>>);

    impl ArgSink for Short {
        fn wants(&mut self, length: usize) -> bool {
            length <= 4
        }

        fn take(&mut self, argument: Option<&[u8]>) {
            self.0.push(argument.map(<[u8]>::to_vec));
        }
    }

    #[test]
    fn arguments_come_whole_however_the_bytes_are_cut() {
        let bytes = b"$4\r\nMSET\r\n$0\r\n\r\n$12\r\n$3\r\nabc\r\nxyz\r\n$2\r\n\r\n\r\n";
        let expected = [
            Some(b"MSET".to_vec()),
            Some(Vec::new()),
            None,
            Some(b"\r\n".to_vec()),
        ];
        for first in 0..bytes.len() {
            for second in first..bytes.len() {
                let mut found = Short::default();
                let mut feed = ArgFeed::default();
                for piece in [&bytes[..first], &bytes[first..second], &bytes[second..]] {
                    feed.feed(piece, &mut found);
                }
                assert_eq!(found.0, expected, "cut at {first} and {second}");
            }
        }
    }
}
