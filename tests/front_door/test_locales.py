"""Every node speaks each language completely, and English is what the schemas say."""

import json
import re

import pytest

from front_door.english import english, node_infos
from host.checkout import PACK

LANGUAGES = ("en", "zh", "ja", "ko", "de", "fr", "es")
TRANSLATIONS = LANGUAGES[1:]
HOW_TO_RENEW = "python tests/front_door/english.py rewrites it; then bring the translations up to date"


def read(language):
    return json.loads((PACK / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))


def leaves(tree, path=()):
    """Every text of a locale by its path."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


@pytest.fixture(scope="module")
def from_schemas(checkout):
    from host.inprocess import enter

    enter(checkout)
    return {node_id: english(info) for node_id, info in node_infos().items()}


def test_these_are_the_languages():
    assert sorted(path.name for path in (PACK / "locales").iterdir()) == sorted(LANGUAGES)


@pytest.mark.host
def test_english_is_what_the_schemas_say(from_schemas):
    assert read("en") == from_schemas, HOW_TO_RENEW


@pytest.mark.parametrize("language", TRANSLATIONS)
class TestTranslation:
    def test_it_says_everything_and_nothing_else(self, language):
        translated, english_paths = dict(leaves(read(language))), dict(leaves(read("en"))).keys()
        assert sorted(english_paths - translated.keys()) == [], "missing"
        assert sorted(translated.keys() - english_paths) == [], "surplus"
        assert all(isinstance(text, str) and text.strip() for text in translated.values())

    def test_sentences_are_translated(self, language):
        own, english_texts = dict(leaves(read(language))), dict(leaves(read("en")))
        same = [path for path, text in own.items() if text == english_texts[path] and " " in text]
        assert [path for path in same if path[-1] in ("description", "tooltip")] == []

    def test_it_keeps_what_a_person_types_or_reads_elsewhere(self, language):
        """File names, folders, options that are followed by a colon, and numbers are the same in every language."""
        own = dict(leaves(read(language)))
        for path, text in leaves(read("en")):
            if path[-1] not in ("description", "tooltip"):
                continue
            for literal in literals(text):
                assert literal in own[path], (path, literal)

    def test_the_frontend_reads_it_as_plain_text(self, language):
        """vue-i18n takes @, a brace or a bar for a command."""
        assert [text for _, text in leaves(read(language)) if re.search(r"[@{}|]", text)] == []


def literals(text):
    """The parts of an English text that no language translates."""
    files = re.findall(r"[\w-]+(?:/[\w-]+)*\.safetensors|models/\w+", text)
    sizes = re.findall(r"\d+x\d+", text)
    names = re.findall(r"\b\w+_(?:KEY|image|min|2s|id|new)\b|klein-9b-kv|FLUX\.2|RES4LYF|SEGMIND_API_KEY", text)
    options = [one for one in re.findall(r"(?:^|\. )([a-z_0-9]+):", text)]
    return {*files, *sizes, *names, *options}


def test_literals_are_found():
    text = "crop: at most 1024x1024 in models/vae. pad: flux2-vae.safetensors of FLUX.2, match_input_image."
    expected = {"crop", "pad", "1024x1024", "models/vae", "flux2-vae.safetensors", "FLUX.2", "match_input_image"}
    assert literals(text) == expected
