"""A page from its template: one HTML file that needs no other, texts of products never markup.

Enters: a template of this folder and its values. Leaves: ``report.html`` beside what it tells of. All pages extend
``base.html``, which holds their style.
"""

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from phi3v_dist.files import write_text

REPORT_FILE = "report.html"


def write_page(folder: Path, template: str, **values: object) -> Path:
    """Write ``report.html`` into ``folder`` and return its path; ``name`` is the folder's own."""
    environment = Environment(
        loader=PackageLoader("phi3v_dist.reports", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template(template).render(name=folder.absolute().name, **values)
    write_text(folder / REPORT_FILE, page)
    return folder / REPORT_FILE
