//! The detectors by name: what each finds, and whether it is on when nothing is said.

use std::fmt;

use schemars::JsonSchema;
use serde::Deserialize;

/// One kind of thing that is taken out of records. Its name stands in the text in its place:
/// `[redacted:card]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Detector {
    /// Values of passwords, tokens, secrets and keys, by the name before them.
    Secret,
    /// Passwords in URLs, and logins in `Bearer …` and `Basic …`.
    Login,
    /// Headers that carry credentials.
    Header,
    /// Parameters of a URL that carry credentials or signatures.
    Query,
    /// JSON Web Tokens.
    Jwt,
    /// Private keys in PEM form.
    PrivateKey,
    /// Key ids of Amazon Web Services, and secret keys beside them.
    AwsKey,
    /// Tokens that tell by their form whose they are: GitHub, Slack, Google, Stripe, Doorward and others.
    Token,
    /// The command of COPY … PROGRAM.
    Program,
    /// Numbers of payment cards: prefix, length and check digit.
    Card,
    /// International bank account numbers: country, length and check digits.
    Iban,
    /// E-mail addresses.
    Email,
    /// Brazil's CPF: two check digits.
    BrCpf,
    /// Spain's DNI and NIE: check letter.
    EsDni,
    /// France's NIR: 13 digits and a two-digit key.
    FrNir,
    /// Italy's codice fiscale: check letter.
    ItCodiceFiscale,
}

impl Detector {
    /// All detectors, with their names and whether they are on when nothing is said.
    pub const ALL: [(Self, &'static str, bool); 16] = [
        (Self::Secret, "secret", true),
        (Self::Login, "login", true),
        (Self::Header, "header", true),
        (Self::Query, "query", true),
        (Self::Jwt, "jwt", true),
        (Self::PrivateKey, "private-key", true),
        (Self::AwsKey, "aws-key", true),
        (Self::Token, "token", true),
        (Self::Program, "program", true),
        (Self::Card, "card", true),
        (Self::Iban, "iban", true),
        (Self::Email, "email", false),
        (Self::BrCpf, "br-cpf", false),
        (Self::EsDni, "es-dni", false),
        (Self::FrNir, "fr-nir", false),
        (Self::ItCodiceFiscale, "it-codice-fiscale", false),
    ];

    /// Its name in the configuration and in redacted texts.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(detector, ..)| *detector == self).map_or("secret", |(_, name, _)| name)
    }
}

impl fmt::Display for Detector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which detectors are on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Set(u32);

impl Set {
    pub(crate) fn has(self, detector: Detector) -> bool {
        self.0 & (1 << detector as u32) != 0
    }

    pub(crate) fn switch(&mut self, detector: Detector, on: bool) {
        let bit = 1 << detector as u32;
        self.0 = if on { self.0 | bit } else { self.0 & !bit };
    }
}

impl Default for Set {
    fn default() -> Self {
        let mut set = Self(0);
        for (detector, _, on) in Detector::ALL {
            set.switch(detector, on);
        }
        set
    }
}
