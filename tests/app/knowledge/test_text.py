"""The terms of texts and queries, and their literals for PostgreSQL."""

from __future__ import annotations

from app.knowledge.postgres.tsvector import build_document, halfvec_literal, query_lexemes, tsquery
from app.knowledge.text import excerpt, query_terms, terms
from app.ports.knowledge import WorkspaceEvent


def test_terms_are_pairs_of_syllables_and_words() -> None:
    assert list(terms("견적서PR 42를, e-mail")) == ["견적", "적서", "서", "pr", "42", "를", "e", "mail"]
    assert query_terms("견적서 견적 팀") == ["견적", "적서", "팀"]


def test_an_excerpt_contains_a_term_of_the_query() -> None:
    text = "가" * 500 + "견적서" + "나" * 500
    found = excerpt(text, ["견적"], 200)
    assert "견적서" in found
    assert found.startswith("…")
    assert found.endswith("…")
    assert excerpt("짧은 글", ["견적"], 200) == "짧은 글"
    assert excerpt(text, ["없음"], 10) == "가" * 10 + "…"


def test_a_tsvector_has_stemmed_terms_at_their_positions_with_weight_a_for_the_title() -> None:
    built = build_document(WorkspaceEvent("e1", "t1", "mail", ("mail",), "u1", 0, "견적서", "Reviewed reviews"))
    assert built.literal == "'견적':1A '적서':2A '서':3A 'review':4,5 'mail':6"
    assert built.length == 6
    assert built.distinct == {"견적", "적서", "서", "review", "mail"}


def test_a_tsquery_has_stemmed_terms() -> None:
    assert query_lexemes("reviewing the reviews: 팀 견적, café 'x' \\ & | !") == [
        "review",
        "the",
        "팀",
        "견적",
        "cafe",
        "x",
    ]
    assert [tsquery(term) for term in ("팀", "견적", "x")] == ["'팀':*", "'견적'", "'x'"]


def test_a_quantised_vector_is_written_as_signed_numbers() -> None:
    assert halfvec_literal(bytes([127, 255, 128, 0])) == "[127, -1, -128, 0]"
