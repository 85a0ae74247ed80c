"""The report in a real headless Chromium: what a reader sees and clicks, in both colour schemes and on a phone."""

import base64
import io
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

pytest.importorskip('jinja2', reason='the extra report is not installed')
pytest.importorskip('matplotlib', reason='the extra report is not installed')
pytest.importorskip('scipy', reason='the extra report is not installed')
pytest.importorskip('selenium', reason='selenium (extra dev) is not installed')

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from nriqa_plugin.cli import app
from tests.report_data import IMAGES, METHODS, score, with_curves, write_jnd, write_runs_of, write_scores_of

ARGUMENTS = (
    '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-dev-shm-usage',
    '--disable-background-networking', '--disable-component-update', '--disable-sync', '--window-size=1280,900',
)  # fmt: skip
JND = {'base': 0.0, 'sharp': 1.0, 'noisy': -1.5}
SCREENSHOTS = os.environ.get('NRIQA_SCREENSHOTS')  # a folder: keeps what the tests saw, for the eye


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    """The file of a report with three trained runs, twelve images, four crops and a JND of every run."""
    folder = tmp_path_factory.mktemp('report')
    jnd = write_jnd(folder / 'jnd.csv', **JND)
    arguments = [*with_curves(folder, write_runs_of(folder)), '--jnd', str(jnd)]
    return report(folder, arguments)


@pytest.fixture(scope='module')
def page_of_many(tmp_path_factory):
    """A report over twelve runs, whose figures are wider than a phone."""
    folder = tmp_path_factory.mktemp('many')
    written = [write_scores_of(folder, METHODS[i % 3]).rename(folder / f'run_{i}.csv') for i in range(12)]
    return report(folder, [str(path) for path in written])


def report(folder, arguments):
    result = CliRunner().invoke(app, ['report', *arguments, '-o', str(folder / 'report.html')])
    assert result.exit_code == 0, result.output
    return folder / 'report.html'


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    binary, driver = shutil.which('chromium') or shutil.which('google-chrome'), shutil.which('chromedriver')
    if not binary or not driver:
        pytest.skip('no chromium and chromedriver on this machine')
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in (*ARGUMENTS, f'--user-data-dir={tmp_path_factory.mktemp("chromium")}'):
        options.add_argument(argument)
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL', 'performance': 'ALL'})
    service = webdriver.ChromeService(driver)
    started = webdriver.Chrome(options=options, service=service)
    started.set_script_timeout(120)
    started.get('about:blank')  # leaves the browser's own start page, which asks for a hundred files
    yield started
    started.quit()


@pytest.fixture
def opened(browser, page):
    """The page as it opens on a desktop in light colours."""
    show(browser, page)
    return browser


def show(browser, page, width=1280, dark=False):
    browser.execute_cdp_cmd(
        'Emulation.setEmulatedMedia',
        {'features': [{'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}]},
    )
    browser.execute_cdp_cmd(
        'Emulation.setDeviceMetricsOverride',
        {'width': width, 'height': 900, 'deviceScaleFactor': 1, 'mobile': width < 500},
    )
    browser.get('about:blank')
    browser.get_log('browser'), browser.get_log('performance')
    browser.get(page.as_uri())
    # On a busy machine the driver can return while the page it was on is being replaced.
    whole = 'return document.URL === arguments[0] && document.readyState === "complete"'
    WebDriverWait(browser, 30).until(lambda browser: browser.execute_script(whole, page.as_uri()))


def find(browser, selector):
    return browser.find_element(By.CSS_SELECTOR, selector)


def texts(browser, selector):
    return browser.execute_script(
        'return [...document.querySelectorAll(arguments[0])].map((found) => found.textContent.trim())', selector
    )


def choose(browser, selector, text):
    """Choose an entry of a list by its text, as a reader does."""
    find(browser, selector).send_keys(text)
    script = 'const s = document.querySelector(arguments[0]); return s.options[s.selectedIndex].textContent'
    assert browser.execute_script(script, selector).startswith(text)


def shot(browser, name):
    if SCREENSHOTS:
        height = browser.execute_script('return document.documentElement.scrollHeight')
        width = browser.execute_script('return innerWidth')
        clip = {'x': 0, 'y': 0, 'width': width, 'height': height, 'scale': 1}
        options = {'captureBeyondViewport': True, 'clip': clip}
        data = browser.execute_cdp_cmd('Page.captureScreenshot', options)['data']
        Path(SCREENSHOTS, f'{name}.png').write_bytes(base64.b64decode(data))


def luminance(browser, selector, what):
    """Relative luminance (WCAG) of a computed colour."""
    colour = browser.execute_script(
        'return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]', selector, what
    )
    values = [float(v) / 255 for v in colour[colour.index('(') + 1 : -1].split(',')[:3]]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return sum(weight * v for weight, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_every_part_is_there_without_error_and_without_network(opened):
    for part in ('gains', 'scores', 'viewer', 'planes', 'violins', 'training', 'images', 'notes'):
        assert find(opened, f'section#{part}').is_displayed()
    assert len(texts(opened, '#planes svg')) == 5  # each pair of the three tiers, and JND against the first two
    assert len(texts(opened, '#violins svg')) == 3
    shown = opened.execute_script('return [...document.images].every((i) => i.complete && i.naturalWidth > 0)')
    assert shown
    shot(opened, 'light')
    assert opened.get_log('browser') == []
    sent = [json.loads(entry['message'])['message'] for entry in opened.get_log('performance')]
    urls = [m['params']['request']['url'] for m in sent if m['method'] == 'Network.requestWillBeSent']
    asked = [url for url in urls if not url.startswith('data:')]
    assert asked
    assert set(asked) == {opened.current_url}


def drawn(browser, section, caption):
    """What is painted in a figure: ``(tag, stroke or fill, left, top, width, height)`` in px from the figure's corner,
    of paths and of markers, without what defines them."""
    return browser.execute_script("""
        const found = [...document.querySelectorAll(`#${arguments[0]} figure`)]
          .find((figure) => figure.querySelector('figcaption').textContent === arguments[1]);
        const corner = found.getBoundingClientRect();
        return [...found.querySelectorAll('path, use')].filter((one) => !one.closest('defs, clipPath')).map((one) => {
          const [style, box] = [getComputedStyle(one), one.getBoundingClientRect()];
          return [one.tagName, style.stroke === 'none' ? style.fill : style.stroke,
            box.left - corner.left, box.top - corner.top, box.width, box.height];
        });
    """, section, caption)  # fmt: skip


def colour(browser, variable):
    return browser.execute_script("""
        const probe = document.body.appendChild(document.createElement('i'));
        probe.style.color = `var(--${arguments[0]})`;
        const found = getComputedStyle(probe).color;
        probe.remove();
        return found;
    """, variable)  # fmt: skip


def test_the_curves_of_every_run_are_drawn(opened):
    captions = texts(opened, '#training figcaption')
    assert captions == ['psnr', 'niqe']
    for place, caption in enumerate(captions):
        names = opened.execute_script("""
            return [...document.querySelectorAll('#training figure')[arguments[0]].querySelectorAll('text')]
              .map((found) => found.textContent.trim());
        """, place)  # fmt: skip
        assert set(METHODS) <= set(names)  # the legend
        assert 'iteration' in names
        shapes = drawn(opened, 'training', caption)
        tops = []
        for number in range(1, len(METHODS) + 1):
            lines = [s for s in shapes if s[0] == 'path' and s[1] == colour(opened, f'series-{number}') and s[4] > 100]
            assert len(lines) == 1, number  # the other one is the short line of the legend
            tops.append(lines[0][3])
            assert lines[0][5] > 50  # it rises
        assert tops == sorted(tops, reverse=True)  # each run is 1 dB above the one before
        assert len({round(top) for top in tops}) == 3
    assert opened.get_log('browser') == []


def test_the_planes_with_jnd_have_a_point_a_run_the_better_the_lower(opened):
    captions = texts(opened, '#planes figcaption')
    assert captions[:2] == ['psnr and jnd', 'lpips and jnd']
    for caption in captions[:2]:
        shapes = [s for s in drawn(opened, 'planes', caption) if s[0] == 'use' and s[4] > 5 and s[5] > 5]
        by_colour = {c: [s for s in shapes if s[1] == colour(opened, c)] for c in ('against', 'body')}
        assert {name: len(points) for name, points in by_colour.items()} == {'against': 1, 'body': 2}
        noisy, base, sharp = sorted(p[3] for points in by_colour.values() for p in points)  # from the top
        assert base == by_colour['against'][0][3]
        assert (base - noisy) / (sharp - base) == pytest.approx(JND['noisy'] / -JND['sharp'], abs=0.05)
    texts_of = opened.execute_script(
        'return [...document.querySelector("#planes svg").querySelectorAll("text")].map((t) => t.textContent)'
    )
    assert {*METHODS, 'JND (higher is better), reversed'} <= {text.removeprefix('perception: ') for text in texts_of}
    assert opened.get_log('browser') == []


def test_a_script_that_is_not_the_pages_own_is_refused(opened):
    """The policy in the page: text that found its way in as code does not run, and nothing can be fetched."""
    opened.execute_script("""
        const script = document.createElement('script');
        script.textContent = 'window.intruder = 1';
        document.body.append(script);
    """)
    assert opened.execute_script('return window.intruder') is None
    fetched = opened.execute_async_script("""
        const done = arguments[arguments.length - 1];
        fetch('http://127.0.0.1:9/').then(() => done('fetched'), (error) => done(String(error)));
    """)
    assert 'TypeError' in fetched
    assert any('Content Security Policy' in entry['message'] for entry in opened.get_log('browser'))


def test_the_slider_moves_the_split(opened):
    def right_edge():
        clip = 'return getComputedStyle(document.getElementById("layer-right")).clipPath'
        return opened.execute_script(clip)

    assert right_edge() == 'inset(0px 0px 0px 50%)'
    slider = find(opened, '#split')
    slider.send_keys(Keys.HOME)
    assert right_edge() in ('inset(0px)', 'inset(0px 0px 0px 0%)')
    slider.send_keys(Keys.END)
    assert right_edge() == 'inset(0px 0px 0px 100%)'
    stage = find(opened, '#stage')
    ActionChains(opened).move_to_element_with_offset(
        stage, stage.size['width'] // 4, 0
    ).click_and_hold().move_by_offset(
        -stage.size['width'] // 2, 0
    ).release().perform()  # from three quarters to one quarter
    assert float(slider.get_attribute('value')) == pytest.approx(25, abs=1)
    assert right_edge() == f'inset(0px 0px 0px {float(slider.get_attribute("value")):g}%)'
    left, right = (stage.location['x'], find(opened, '#handle').rect)
    assert right['x'] + right['width'] / 2 - left == pytest.approx(stage.size['width'] / 4, abs=6)


def transforms(browser):
    """Where every picture of the viewer is drawn in its window: left, top and width in shares of the window."""
    return browser.execute_script("""
        return [...document.querySelectorAll('#viewer .window img')].map((image) => {
          const [a, b] = [image.getBoundingClientRect(), image.closest('.window').getBoundingClientRect()];
          return [(a.left - b.left) / b.width, (a.top - b.top) / b.width, a.width / b.width];
        });
    """)


def test_zoom_and_place_are_the_same_in_all_pictures(opened):
    stage = find(opened, '#stage')
    assert len(transforms(opened)) == 2 + len(METHODS) + 2  # left, right; every run, ground truth, input
    for _ in range(3):
        find(opened, '#zoom-in').click()
    stage.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_UP)
    zoomed = transforms(opened)
    assert zoomed[0][2] == pytest.approx(1.5**3, abs=0.01)
    assert zoomed[0][0] < -1 / 2
    for other in zoomed:
        assert other == pytest.approx(zoomed[0], abs=0.01)
    tile = opened.find_elements(By.CSS_SELECTOR, '.tile')[2]
    before = find(opened, '#right').get_attribute('value')
    ActionChains(opened).click_and_hold(tile).move_by_offset(30, 20).release().perform()
    dragged = transforms(opened)
    assert dragged[0][0] > zoomed[0][0]
    assert dragged[0][1] > zoomed[0][1]
    assert all(other == pytest.approx(dragged[0], abs=0.01) for other in dragged)
    assert find(opened, '#right').get_attribute('value') == before  # a drag is no click
    find(opened, '#zoom-reset').click()
    assert all(other == pytest.approx([0, 0, 1], abs=0.01) for other in transforms(opened))


def test_methods_and_crops_are_chosen(opened):
    assert find(opened, '#tag-left').text == 'base'
    source = 'return document.querySelector(arguments[0]).src'
    before = opened.execute_script(source, '#layer-right img')
    opened.find_elements(By.CSS_SELECTOR, '.tile')[-1].click()
    assert find(opened, '#tag-right').text == 'noisy'
    after = opened.execute_script(source, '#layer-right img')
    assert after != before
    assert after == opened.execute_script(source, '.tile[data-name="noisy"] img')
    choose(opened, '#left', 'Ground truth')
    assert find(opened, '#tag-left').text == 'Ground truth'
    find(opened, '#swap').click()
    assert (find(opened, '#tag-left').text, find(opened, '#tag-right').text) == ('noisy', 'Ground truth')
    crops = texts(opened, '#region option')
    assert len(crops) == 4
    first = find(opened, '#where').text
    choose(opened, '#region', crops[2])
    assert find(opened, '#where').text != first
    assert find(opened, '#where').text.startswith(crops[2])
    assert opened.execute_script(source, '#layer-left img') != after


def column(browser, number):
    return texts(browser, f'#table tbody tr > :nth-child({number})')


def test_the_table_sorts_numbers_as_numbers_and_by_keyboard(opened):
    choose(opened, '#table-judge', 'psnr')
    assert column(opened, 1) == IMAGES
    assert column(opened, 2) == [f'{score("base", "psnr", i):.2f}' for i in range(12)]
    assert sorted(column(opened, 2)) != column(opened, 2)  # as text, 10 comes before 9
    buttons = opened.find_elements(By.CSS_SELECTOR, '#table thead button')
    buttons[1].click()
    assert column(opened, 2) == [f'{9 + i:.2f}' for i in range(12)]
    assert find(opened, '#table thead th:nth-child(2)').get_attribute('aria-sort') == 'ascending'
    opened.switch_to.active_element.send_keys(Keys.ENTER)
    assert column(opened, 2) == [f'{9 + i:.2f}' for i in reversed(range(12))]
    assert column(opened, 1) == IMAGES[::-1]  # whole rows move
    assert find(opened, '#table thead th:nth-child(2)').get_attribute('aria-sort') == 'descending'
    choose(opened, '#table-judge', 'niqe')
    find(opened, '#table thead th:nth-child(3) button').click()
    values = [float(text) for text in column(opened, 3)]
    assert values == sorted(values)
    assert len(set(values)) > 5
    choose(opened, '#table-mode', 'difference')
    assert set(column(opened, 2)) == {'0.000'}
    assert set(column(opened, 3)) == {'\N{MINUS SIGN}1.000', '\N{MINUS SIGN}1.010', '\N{MINUS SIGN}1.020'}
    assert 'good' in find(opened, '#table tbody td:nth-child(3)').get_attribute('class')  # lower is better


def test_an_image_of_the_table_opens_in_the_viewer(opened):
    links = opened.find_elements(By.CSS_SELECTOR, '#table tbody th button')
    assert len(links) == 4
    name = links[-1].text
    links[-1].click()
    assert find(opened, '#where').text.startswith(name)


def test_dark_colours_are_dark_and_readable(browser, page):
    light = []
    for dark in (False, True):
        show(browser, page, dark=dark)
        if dark:
            shot(browser, 'dark')
        for selector, behind in (('body', 'body'), ('.small', 'body'), ('#planes svg text', '#planes figure'),
                                 ('.gain.good', 'body')):  # fmt: skip
            what = 'fill' if 'svg' in selector else 'color'
            ink, paper = luminance(browser, selector, what), luminance(browser, behind, 'backgroundColor')
            contrast = (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05)
            assert contrast >= 4.5, (selector, dark)  # WCAG AA
        light.append(luminance(browser, 'body', 'backgroundColor'))
    assert light[0] > 0.8
    assert light[1] < 0.05


def test_a_phone_shows_everything_without_scrolling_sideways(browser, page):
    show(browser, page, width=375)
    time.sleep(0.2)
    shot(browser, 'phone')
    widths = browser.execute_script('return [document.documentElement.scrollWidth, innerWidth]')
    assert widths == [375, 375]
    stage = find(browser, '#stage').rect
    assert stage['width'] > 300
    assert stage['x'] + stage['width'] <= 375
    small = browser.execute_script("""
        return [...document.querySelectorAll('#viewer button, #viewer select, #table-judge')]
          .map((found) => found.getBoundingClientRect()).filter((box) => box.width && box.height < 30).length;
    """)
    assert small == 0  # large enough for a finger


def figures_on(browser):
    """Of every figure: its caption, how many px of it are hidden, and its smallest letters in px."""
    return browser.execute_script("""
        return [...document.querySelectorAll('.plots figure')].map((figure) => {
          const [box, svg] = [figure.querySelector('.scroll'), figure.querySelector('svg')];
          const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
          const sizes = [...svg.querySelectorAll('text')].map((t) => parseFloat(getComputedStyle(t).fontSize) * scale);
          return [figure.querySelector('figcaption').textContent, box.scrollWidth - box.clientWidth, Math.min(...sizes)];
        });
    """)


def test_figures_of_few_runs_fit_onto_a_phone_and_can_be_read(browser, page):
    show(browser, page, width=375)
    found = figures_on(browser)
    assert len(found) == 5 + 3 + 2
    for caption, hidden, smallest in found:
        assert hidden <= 0, caption
        assert smallest >= 7, caption
    below = browser.execute_script("""
        return [...document.querySelectorAll('.plots figure p')].map((p) => {
          const box = p.getBoundingClientRect();
          return [box.right <= innerWidth && p.scrollWidth <= p.clientWidth, parseFloat(getComputedStyle(p).fontSize)];
        });
    """)
    assert len(below) == 5 + 3
    assert all(inside and size > 13 for inside, size in below)


@pytest.mark.parametrize('dark', [False, True])
def test_a_figure_that_goes_on_has_a_shadow_on_that_side_only(browser, page_of_many, dark):
    show(browser, page_of_many, width=375, dark=dark)
    shot(browser, f'phone_many_{"dark" if dark else "light"}')
    caption, hidden, smallest = next(found for found in figures_on(browser) if found[0] == 'niqe')
    assert hidden > 100, caption
    assert smallest >= 7

    def edges(where):
        """How far the colour of both edges is from that of the card, in the blank row above the axes."""
        box = browser.execute_script("""
            const found = document.querySelector('#violins .scroll');
            found.scrollIntoView({block: 'center'});
            found.scrollLeft = arguments[0];
            const box = found.getBoundingClientRect();
            return [box.left + scrollX, box.top + scrollY, box.width];
        """, where)  # fmt: skip
        clip = {'x': box[0], 'y': box[1], 'width': box[2], 'height': 3, 'scale': 1}
        data = browser.execute_cdp_cmd('Page.captureScreenshot', {'clip': clip})['data']
        row = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert('L')).astype(float)[1]
        paper = row[len(row) // 2]
        return abs(row[2] - paper), abs(row[-3] - paper)

    left, right = edges(0)
    assert left < 4
    assert right > 20
    left, right = edges(hidden // 2)
    assert min(left, right) > 20
    left, right = edges(hidden + 10)
    assert left > 20
    assert right < 4
