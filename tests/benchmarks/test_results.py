from results import ROOT, filled, page


def test_the_table_of_the_readme_is_that_of_the_results():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert filled(text) == text


def test_the_page_of_results_is_that_of_the_results():
    assert (ROOT / "docs" / "results.md").read_text(encoding="utf-8") == page()
