"use strict";
// Shows only the rows that the filters let through. Without it the page shows all of them.
(() => {
  const form = document.getElementById("filters");
  if (!form) return;
  const textOf = (row, name) => row.querySelector(name)?.textContent ?? "";
  const rows = [...document.querySelectorAll(".row")].map((element) => ({
    element,
    states: element.dataset.states.split(" "),
    cause: element.dataset.cause,
    text: `${textOf(element, "h3")} ${textOf(element, ".prompt")}`.toLowerCase(),
  }));
  const { state, cause, words } = form.elements;
  const shown = document.getElementById("shown");

  const filter = () => {
    const wanted = words.value.trim().toLowerCase();
    let number = 0;
    for (const row of rows) {
      const fits =
        (!state.value || row.states.includes(state.value)) &&
        (!cause.value || row.cause === cause.value) &&
        row.text.includes(wanted);
      row.element.hidden = !fits;
      number += fits;
    }
    shown.textContent = number === rows.length ? "" : `${number} of these fit.`;
  };

  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(filter));
  for (const button of document.querySelectorAll("button[data-show]")) {
    button.hidden = false;
    button.addEventListener("click", () => {
      form.reset();
      cause.value = button.dataset.show;
      filter();
      document.getElementById("rows").scrollIntoView();
      cause.focus({ preventScroll: true });
    });
  }
  // A link to a row leads there even where a filter hides it.
  addEventListener("hashchange", () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target?.hidden) {
      form.reset();
      setTimeout(() => target.scrollIntoView());
    }
  });
  form.hidden = false;
  filter();
})();
