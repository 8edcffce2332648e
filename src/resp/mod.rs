//! (being written)

/// Arguments of a canonical request (placeholder until the scanners land).
#[derive(Clone, Copy)]
pub struct Args<'a> {
    canonical: &'a [u8],
    argc: u32,
}

impl<'a> Args<'a> {
    /// Reads arguments out of the canonical bytes of a request that announced `argc` of them.
    pub fn new(canonical: &'a [u8], argc: u32) -> Self {
        Self { canonical, argc }
    }

    /// How many arguments the request announced.
    pub fn announced(&self) -> u32 {
        self.argc
    }

    /// The arguments that are wholly there.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let start = self
            .canonical
            .iter()
            .position(|b| *b == b'\n')
            .map_or(self.canonical.len(), |at| at + 1);
        let mut rest = self.canonical.get(start..).unwrap_or_default();
        std::iter::from_fn(move || {
            let end = rest.iter().position(|b| *b == b'\n')?;
            let len: usize = std::str::from_utf8(rest.get(1..end.checked_sub(1)?)?)
                .ok()?
                .parse()
                .ok()?;
            let arg = rest.get(end + 1..end + 1 + len)?;
            rest = rest.get(end + 3 + len..)?;
            Some(arg)
        })
    }
}
