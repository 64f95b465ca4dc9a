// Runs before the page is drawn, so that it is never drawn in the wrong colours first.
try {
  const wanted = localStorage.getItem("lookalike:theme");
  if (wanted === "light" || wanted === "dark") document.documentElement.dataset.theme = wanted;
} catch {
  // Pages from disk may be forbidden to keep anything: the system's colours are used.
}
