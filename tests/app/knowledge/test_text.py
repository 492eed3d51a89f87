"""Text as the indexes see it."""

from __future__ import annotations

from app.knowledge.postgres.tsvector import asked, document, halfvec, pattern
from app.knowledge.text import excerpt, query_terms, terms
from app.ports.knowledge import WorkspaceEvent


def test_terms_are_pairs_of_syllables_and_words() -> None:
    assert list(terms("견적서PR 42를, e-mail")) == ["견적", "적서", "서", "pr", "42", "를", "e", "mail"]
    assert query_terms("견적서 견적 팀") == ["견적", "적서", "팀"]


def test_an_excerpt_is_about_what_was_asked() -> None:
    text = "가" * 500 + "견적서" + "나" * 500
    found = excerpt(text, ["견적"], 200)
    assert "견적서" in found
    assert found.startswith("…")
    assert found.endswith("…")
    assert excerpt("짧은 글", ["견적"], 200) == "짧은 글"
    assert excerpt(text, ["없음"], 10) == "가" * 10 + "…"


def test_a_document_of_the_server_holds_the_terms_where_they_stand_stemmed_those_of_the_title_apart() -> None:
    made = document(WorkspaceEvent("e1", "t1", "mail", ("mail",), "u1", 0, "견적서", "Reviewed reviews"))
    assert made.literal == "'견적':1A '적서':2A '서':3A 'review':4,5 'mail':6"
    assert made.length == 6
    assert made.distinct == {"견적", "적서", "서", "review", "mail"}


def test_a_question_of_the_server_is_stemmed_too() -> None:
    assert asked("reviewing the reviews: 팀 견적, café 'x' \\ & | !") == ["review", "the", "팀", "견적", "cafe", "x"]
    assert [pattern(term) for term in ("팀", "견적", "x")] == ["'팀':*", "'견적'", "'x'"]


def test_a_quantised_vector_is_the_server_s_numbers() -> None:
    assert halfvec(bytes([127, 255, 128, 0])) == "[127, -1, -128, 0]"
