"""Options of ``tools/fetch_products.py``: a page of the manual that ``options.py`` is.

Enters: section ``fetch`` of a recipe. Leaves: one ``FetchOptions``.
"""

from typing import Annotated

from pydantic import Field

from phi3v_dist.config.option_types import Count, CountOrZero, Number, Options, Share


class FetchOptions(Options):
    """catalog/fetch: how the pictures that the table names by URL are downloaded. A host is a name and a port."""

    contact: Annotated[str, Field(pattern=r"^[!-~]+$")] | None = Field(
        None, description="E-mail or web page told to every server with our name, so that its owner can reach you."
    )
    obey_robots: bool = Field(True, description="Obey each host's robots.txt; false: for servers of your own.")
    connections: Annotated[Count, Field(le=4096)] = Field(64, description="Requests under way at a time, all hosts.")
    connections_per_host: Annotated[Count, Field(le=256)] = Field(
        4, description="Requests under way at a time, a host."
    )
    requests_per_second: Number = Field(10.0, description="Most requests that a host gets in a second; 0: no limit.")
    deadline_seconds: Annotated[Number, Field(ge=0.1, le=3600)] = Field(
        60.0, description="A request that isn't answered whole by then has failed, however much has come (seconds)."
    )
    attempts: Annotated[Count, Field(le=20)] = Field(
        4, description="Tries for a URL whose fault may pass: 429, 5xx, no answer, cut off."
    )
    backoff_seconds: Number = Field(1.0, description="Mean pause before the second try; doubles with each further one.")
    max_wait_seconds: Annotated[Number, Field(le=86_400)] = Field(
        120.0, description="Longest pause, whatever Retry-After or Crawl-delay ask for (seconds)."
    )
    max_redirects: Annotated[CountOrZero, Field(le=50)] = Field(5, description="Redirects that a URL may take.")
    max_picture_megabytes: Annotated[Number, Field(ge=0.001, le=2048)] = Field(
        50.0, description="A larger answer is broken off (megabytes). Every request may hold one in memory."
    )
    give_up_window: Annotated[Count, Field(ge=5, le=10_000)] = Field(
        20, description="A host is judged by its last so many requests, the name servers by the last so many hosts."
    )
    give_up_share: Annotated[Share, Field(ge=0.1)] = Field(
        0.8, description="So large a share of them without an answer: the rest of the host's URLs isn't tried."
    )
    nameservers: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (), description="Name servers to ask, as in 10.0.0.1:53; default: the system's."
    )
    dns_cache_seconds: CountOrZero = Field(600, description="How long an address is remembered (seconds).")
    max_failed_share: Share = Field(0.05, description="Above this share of failed URLs the command ends with code 3.")
