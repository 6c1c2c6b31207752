//! Folders, endpoint and token: everything that the environment decides, read once.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::files::read_limited;
use crate::hub::HubError;

/// A file that is larger holds no token.
const MAX_TOKEN_BYTES: u64 = 64 << 10;

/// Access token of the hub. Its `Debug` form does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token without the white space around it, or `None` if nothing is left.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Self(text.into()))
    }

    /// The secret itself, for the `Authorization` header.
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Where models are kept. A folder is unknown where neither its variable nor a home folder is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheDirs {
    kvscope: Option<PathBuf>,
    hub: Option<PathBuf>,
}

impl CacheDirs {
    /// Given folders: kvscope's own cache, and the hub's (the folder that holds `models--org--name`).
    pub fn at(kvscope: PathBuf, hub: PathBuf) -> Self {
        Self { kvscope: Some(kvscope), hub: Some(hub) }
    }

    /// Folders by the process's environment variables.
    pub fn from_env() -> Self {
        Self::from_vars(&|name| std::env::var_os(name))
    }

    /// Folders by the variables that `var` knows; `~` and `$NAME` in them are filled in, as Hugging Face's own tools do it.
    ///
    /// - kvscope's own: `$KVSCOPE_CACHE`, else `$XDG_CACHE_HOME/kvscope`, else `~/.cache/kvscope`.
    /// - The hub's, as Hugging Face's own tools choose it: `$HF_HUB_CACHE`, else `$HUGGINGFACE_HUB_CACHE`, else
    ///   `$HF_HOME/hub`, else `$XDG_CACHE_HOME/huggingface/hub`, else `~/.cache/huggingface/hub`.
    pub fn from_vars(var: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let kvscope = folder(var, "KVSCOPE_CACHE").or_else(|| user_cache(var).map(|cache| cache.join("kvscope")));
        let hub = folder(var, "HF_HUB_CACHE")
            .or_else(|| folder(var, "HUGGINGFACE_HUB_CACHE"))
            .or_else(|| hf_home(var).map(|home| home.join("hub")));
        Self { kvscope, hub }
    }

    /// Folder of models with a short name, one folder each.
    pub fn models(&self) -> Result<PathBuf, HubError> {
        let kvscope = self.kvscope.as_ref().ok_or(HubError::NoCacheFolder("KVSCOPE_CACHE"))?;
        Ok(kvscope.join("models"))
    }

    /// Folder of models from the hub, in the layout that Hugging Face's own tools share.
    pub fn hub(&self) -> Result<&Path, HubError> {
        self.hub.as_deref().ok_or(HubError::NoCacheFolder("HF_HOME"))
    }
}

/// The folder that a variable names.
fn folder(var: &dyn Fn(&str) -> Option<OsString>, name: &str) -> Option<PathBuf> {
    let value = var(name).filter(|value| !value.is_empty())?;
    match value.to_str() {
        Some(text) => Some(filled_in(text, var).into()),
        None => Some(value.into()),
    }
}

fn home(var: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name| var(name).filter(|value| !value.is_empty());
    set("HOME").or_else(|| set("USERPROFILE")).map(PathBuf::from)
}

/// The user's folder for caches. The XDG specification says that a relative path is to be ignored.
fn user_cache(var: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let named = folder(var, "XDG_CACHE_HOME").filter(|path| path.is_absolute());
    named.or_else(|| home(var).map(|home| home.join(".cache")))
}

/// The folder of Hugging Face's tools, which also has the token.
fn hf_home(var: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    folder(var, "HF_HOME").or_else(|| user_cache(var).map(|cache| cache.join("huggingface")))
}

/// A path with its leading `~` and its variables (`$NAME`, `${NAME}`) filled in, as a shell does it; files of settings hand
/// them over as they are. What is not known stays.
fn filled_in(text: &str, var: &dyn Fn(&str) -> Option<OsString>) -> String {
    let known = |name: &str| var(name).and_then(|value| value.into_string().ok());
    let mut out = String::new();
    let mut rest = text;
    if let Some(tail) = text.strip_prefix('~').filter(|tail| tail.is_empty() || tail.starts_with('/'))
        && let Some(home) = home(var).and_then(|home| home.into_os_string().into_string().ok())
    {
        out.push_str(home.trim_end_matches('/'));
        rest = tail;
    }
    while let Some(at) = rest.find('$') {
        let (before, tail) = rest.split_at(at);
        out.push_str(before);
        let plain = &tail[1..];
        let (name, behind) = match plain.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some(braced) => braced,
            None => {
                let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
                plain.split_at(plain.find(|c| !is_name(c)).unwrap_or(plain.len()))
            }
        };
        match known(name).filter(|_| !name.is_empty()) {
            Some(value) => out.push_str(&value),
            None => out.push_str(&tail[..tail.len() - behind.len()]),
        }
        rest = behind;
    }
    out.push_str(rest);
    out
}

/// Whether a variable switches something on, by the words that Hugging Face's tools know.
fn is_on(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&value.to_uppercase().as_str())
}

/// How the hub is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubSettings {
    /// Where models are kept.
    pub dirs: CacheDirs,
    /// Scheme and host, without a slash at the end.
    pub endpoint: String,
    /// Sent to the endpoint only: same scheme, host and port.
    pub token: Option<Token>,
    /// Nothing is asked of any server.
    pub offline: bool,
    /// How often a transfer that broke off is taken up again before it is given up.
    pub retries: u32,
}

impl HubSettings {
    /// The public hub without a token, four retries.
    pub fn new(dirs: CacheDirs) -> Self {
        Self { dirs, endpoint: "https://huggingface.co".into(), token: None, offline: false, retries: 4 }
    }

    /// Settings by the process's environment variables.
    pub fn from_env() -> Self {
        Self::from_vars(&|name| std::env::var_os(name))
    }

    /// Settings by the variables that `var` knows, read as Hugging Face's own tools read them: those of
    /// [`CacheDirs::from_vars`], `HF_ENDPOINT`, `HF_HUB_OFFLINE` (or `TRANSFORMERS_OFFLINE`), `HF_TOKEN` (or
    /// `HUGGING_FACE_HUB_TOKEN`). Without a token in a variable, the one that `hf auth login` stored is used: in the file
    /// `HF_TOKEN_PATH`, else in `token` in the hub's folder. `HF_HUB_DISABLE_IMPLICIT_TOKEN` sends none.
    pub fn from_vars(var: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let text = |name: &str| var(name).and_then(|value| value.into_string().ok()).filter(|value| !value.is_empty());
        let is_set = |name: &str| text(name).is_some_and(|value| is_on(&value));
        let mut settings = Self::new(CacheDirs::from_vars(var));
        if let Some(endpoint) = text("HF_ENDPOINT") {
            settings.endpoint = endpoint.trim_end_matches('/').into();
        }
        let offline = text("HF_HUB_OFFLINE").or_else(|| text("TRANSFORMERS_OFFLINE"));
        settings.offline = offline.is_some_and(|value| is_on(&value));
        let stored = || {
            let path = folder(var, "HF_TOKEN_PATH").or_else(|| hf_home(var).map(|home| home.join("token")))?;
            String::from_utf8(read_limited(&path, "token", MAX_TOKEN_BYTES).ok()?).ok()
        };
        let given = || text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN"));
        if !is_set("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            settings.token = given().or_else(stored).and_then(|token| Token::new(&token));
        }
        settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hint::Hint;

    fn from(pairs: &'static [(&'static str, &'static str)]) -> CacheDirs {
        CacheDirs::from_vars(&|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn the_nearest_variable_decides() {
        let dirs = from(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x"), ("KVSCOPE_CACHE", "/k"), ("HF_HOME", "/f")]);
        assert_eq!((dirs.models().unwrap(), dirs.hub().unwrap()), ("/k/models".into(), Path::new("/f/hub")));
        let dirs = from(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x"), ("HF_HOME", ""), ("HF_HUB_CACHE", "/c")]);
        assert_eq!((dirs.models().unwrap(), dirs.hub().unwrap()), ("/x/kvscope/models".into(), Path::new("/c")));
        let dirs = from(&[("HOME", "/h"), ("XDG_CACHE_HOME", "relative")]);
        assert_eq!(dirs.models().unwrap(), PathBuf::from("/h/.cache/kvscope/models"));
        assert_eq!(dirs.hub().unwrap(), Path::new("/h/.cache/huggingface/hub"));
    }

    #[test]
    fn homes_and_variables_are_filled_in() {
        let dirs = from(&[("HOME", "/h"), ("HF_HOME", "~/hf"), ("KVSCOPE_CACHE", "~")]);
        assert_eq!((dirs.models().unwrap(), dirs.hub().unwrap()), ("/h/models".into(), Path::new("/h/hf/hub")));
        let dirs = from(&[("HOME", "/h"), ("HF_HUB_CACHE", "$A/${B}/$C/$"), ("A", "/a"), ("B", "b")]);
        assert_eq!(dirs.hub().unwrap(), Path::new("/a/b/$C/$"));
        let dirs = from(&[("HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HOME", "/f")]);
        assert_eq!(dirs.hub().unwrap(), Path::new("/old"));
        let dirs = from(&[("HOME", "/h"), ("XDG_CACHE_HOME", "~/x"), ("HF_HOME", "/a~/b")]);
        assert_eq!(
            (dirs.models().unwrap(), dirs.hub().unwrap()),
            ("/h/x/kvscope/models".into(), Path::new("/a~/b/hub"))
        );
    }

    #[test]
    fn the_words_of_the_switch_are_known() {
        let offline = |pairs: &'static [(&'static str, &'static str)]| {
            HubSettings::from_vars(&|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
                .offline
        };
        for on in [
            &[("HF_HUB_OFFLINE", "1")][..],
            &[("HF_HUB_OFFLINE", "true")],
            &[("HF_HUB_OFFLINE", "Yes")],
            &[("HF_HUB_OFFLINE", "ON")],
            &[("HF_HUB_OFFLINE", ""), ("TRANSFORMERS_OFFLINE", "1")],
        ] {
            assert!(offline(on), "{on:?}");
        }
        assert!(!offline(&[("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")]) && !offline(&[]));
    }

    #[test]
    fn without_a_home_the_error_names_the_variable() {
        let error = from(&[]).models().unwrap_err();
        assert!(error.hint().unwrap().contains("KVSCOPE_CACHE"), "{error}");
    }

    #[test]
    fn tokens_come_from_the_variable_then_the_file_and_stay_hidden() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), "stored\n").unwrap();
        let home = dir.path().as_os_str().to_owned();
        let vars = |name: &str| (name == "HF_HOME").then(|| home.clone());
        let settings = HubSettings::from_vars(&vars);
        assert_eq!(settings.token, Token::new("stored"));
        let elsewhere = dir.path().join("elsewhere");
        std::fs::write(&elsewhere, "other").unwrap();
        let vars = |name: &str| match name {
            "HF_HOME" => Some(home.clone()),
            "HF_TOKEN_PATH" => Some(elsewhere.clone().into_os_string()),
            "HF_TOKEN" => Some("".into()),
            _ => None,
        };
        assert_eq!(HubSettings::from_vars(&vars).token, Token::new("other"));
        let none = |name: &str| if name == "HF_HUB_DISABLE_IMPLICIT_TOKEN" { Some("1".into()) } else { vars(name) };
        assert_eq!(HubSettings::from_vars(&none).token, None);
        let vars = |name: &str| match name {
            "HF_HOME" => Some(home.clone()),
            "HF_TOKEN" => Some(" given ".into()),
            "HF_ENDPOINT" => Some("http://mirror:1/".into()),
            _ => None,
        };
        let settings = HubSettings::from_vars(&vars);
        assert_eq!(
            (settings.token.as_ref().unwrap().secret(), settings.endpoint.as_str()),
            ("given", "http://mirror:1")
        );
        assert!(!format!("{settings:?}").contains("given"));
    }
}
