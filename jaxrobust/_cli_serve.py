"""`jaxrobust serve`."""

from pathlib import Path

import click

from jaxrobust import _cli_common as common

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@click.command()
@click.argument("path", type=click.Path(path_type=Path), metavar="RUN|CHECKPOINT|EXPORT")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at; 0.0.0.0 for all.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one."
)
@click.option(
    "--max-batch", type=int, default=32, show_default=True, help="Images in one pass, and in one request."
)
@click.option(
    "--max-wait-ms",
    type=float,
    default=2.0,
    show_default=True,
    help="How long an image waits for others to share a pass.",
)
@click.option(
    "--max-queue",
    type=int,
    default=256,
    show_default=True,
    help="Images accepted and not answered; beyond it 429.",
)
@click.option("--max-bytes", type=int, default=10 * 2**20, show_default=True, help="Of a request's body.")
@click.option("--max-pixels", type=int, default=25_000_000, show_default=True, help="Of an uploaded image.")
@click.option(
    "--decode-seconds", type=float, default=5.0, show_default=True, help="The longest for decoding one image."
)
@click.option("--decode-threads", type=int, default=2, show_default=True, help="Images decoded at once.")
@click.option(
    "--api-key-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="One key a line; `KEY admin` may reload the model. Without it /v1/ is open, and reloading closed.",
)
@click.option(
    "--stability",
    metavar="NEIGHBOURHOOD",
    help="Where ?stability=1 samples, as in an override: 'linf(eps=0.1)'; default what the run trained "
    "against.",
)
@click.option("--stability-samples", type=int, default=16, show_default=True, help="Draws of ?stability=1.")
@click.option(
    "--threshold",
    type=float,
    metavar="COSINE",
    help="Of a face model: from where on two faces are one person's; default that of its verification "
    "(`jaxrobust evaluate RUN --task verification`).",
)
@click.option(
    "--gallery",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Of a face model: who can be identified, FOLDER/PERSON/IMAGE.",
)
@click.option(
    "--drain-seconds",
    type=float,
    default=0.0,
    show_default=True,
    help="After SIGTERM, how long /readyz says no before the port is closed.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Lines of JSON on stderr; warning leaves out the line per request.",
)
@common.which_option
def serve(
    path, host, port, max_batch, max_wait_ms, max_queue, max_bytes, max_pixels, decode_seconds,
    decode_threads, api_key_file, stability, stability_samples, threshold, gallery, drain_seconds,
    log_level, which,
):  # fmt: skip
    """Serve a model over HTTP, with a page to try it.

    Takes a run, one checkpoint of it, or what `jaxrobust export` wrote. The page is at /, what there is
    besides at /openapi.json. SIGTERM or Ctrl-C answers what was accepted, then ends.

    \b
    Examples:
      jaxrobust serve runs/digits_srt-seed0
      jaxrobust serve released --host 0.0.0.0 --api-key-file keys.txt
      jaxrobust serve runs/digits_srt-seed0 --stability 'rotation_translation(max_angle=10, max_shift=1)'
      jaxrobust serve runs/face_orl_gated-seed0 --gallery people
      curl -F file=@digit.png http://127.0.0.1:8000/v1/recognise
    """
    try:
        from jaxrobust import serving
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("jaxrobust"):
            raise
        raise ValueError(
            f"The service needs {error.name}, which is not installed: pip install 'jaxrobust[serve]'."
        ) from error
    from jaxrobust import _cli_served

    settings = serving.Settings(
        max_batch=max_batch,
        max_wait_ms=max_wait_ms,
        max_queue=max_queue,
        max_bytes=max_bytes,
        max_pixels=max_pixels,
        decode_seconds=decode_seconds,
        decode_threads=decode_threads,
        stability_samples=stability_samples,
        drain_seconds=drain_seconds,
    )
    keys = None if api_key_file is None else serving.read_keys(api_key_file)

    def load():
        return _cli_served.load(path, which=which, stability=stability, threshold=threshold, gallery=gallery)

    served = load()
    if keys is None and host not in _LOOPBACK:
        click.echo(f"Warning: {host} may be reached by others, and there is no --api-key-file.", err=True)

    def started(address: str) -> None:
        common.say(f"Serving {served.id} at {address} (Ctrl-C ends).")

    serving.serve(
        served,
        load,
        settings=settings,
        keys=keys,
        host=host,
        port=port,
        log_level=log_level,
        started_fn=started,
    )
