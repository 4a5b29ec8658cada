//! Makes the secret of a hold, by which others prove that they are inside.

use super::{Holder, Mode};
use crate::{
    env,
    error::{Error, Result},
    escape::hex,
};

/// Marks a token that was given out inside the hold.
const NESTED: &str = "/inside";

/// The secret of a hold. A process that knows it is inside.
#[derive(Clone)]
pub(crate) struct Token(String);

impl Token {
    /// Makes a new secret for the hold with this fencing number: `<fence>-<place><random>`, the latter in hex.
    pub(super) fn new(fence: u64, place: u32) -> Result<Self> {
        let mut secret = [0; 16];
        getrandom::fill(&mut secret).map_err(|_| Error::Unsupported { what: "a source of random numbers" })?;
        Ok(Self(format!("{fence}-{place:08x}{}", hex(&secret))))
    }

    /// Fencing number of the hold, or number of the request; `None` if the text is not a token.
    pub(super) fn fence(&self) -> Option<u64> {
        let (fence, secret) = self.0.split_once('-')?;
        let is_secret = secret.len() == 40 && secret.bytes().all(|c| c.is_ascii_hexdigit());
        fence.parse().ok().filter(|_| is_secret)
    }

    /// The place of the hold, as [`super::record::Table::place`] has it; `None` if the text is not a token.
    pub(super) fn place(&self) -> Option<u32> {
        self.fence()?;
        let (_, secret) = self.0.split_once('-')?;
        u32::from_str_radix(&secret[..8], 16).ok()
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// A token that somebody shows.
    pub(crate) fn shown(text: &str) -> Self {
        Self(nested_parts(text).map_or(text, |(_, token)| token).to_owned())
    }

    /// The token for a request that an enclosing hold covers already, the one with this fencing number (0 for flock(1)). It admits
    /// like the enclosing hold's own token, but cannot release that hold.
    ///
    /// `<fence>/<the caller's own token>/inside`: a caller that is inside by its token alone stays inside.
    pub(crate) fn nested(outer: u64) -> String {
        let own = env::text(env::TOKEN).map_or_else(String::new, |token| Self::shown(&token).0);
        format!("{outer}/{own}{NESTED}")
    }

    /// The fencing number of the hold that a text of [`Token::nested`] was given out in; `None` for other texts.
    pub(crate) fn outer(text: &str) -> Option<u64> {
        nested_parts(text).map(|(outer, _)| outer)
    }

    /// The digest that records contain. It depends on the resources, so it is worthless in a record of others.
    pub(super) fn digest(&self, resources: &[(String, Mode)]) -> String {
        let mut digest = hmac_sha256::Hash::new();
        digest.update(self.0.as_bytes());
        for (key, mode) in resources {
            digest.update([0]);
            digest.update(key.as_bytes());
            digest.update(if *mode == Mode::Exclusive { b"x" } else { b"s" });
        }
        hex(&digest.finalize())
    }

    /// Tells whether a record is that of the hold, or of the request, with this token.
    pub(super) fn is_of(&self, record: &Holder) -> bool {
        record.token_sha256.as_ref().is_some_and(|recorded| *recorded == self.digest(&record.resources))
    }
}

/// The two parts of a text of [`Token::nested`].
fn nested_parts(text: &str) -> Option<(u64, &str)> {
    let (outer, token) = text.strip_suffix(NESTED)?.split_once('/')?;
    Some((outer.parse().ok()?, token))
}
